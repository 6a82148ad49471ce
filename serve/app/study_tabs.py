"""The tabs that explain: compare the models, see where one looks, and read the cards."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from serve.app.answer import Pixels, message, title
from serve.app.ask import ask_all, example, ready
from serve.app.cards import cards, markdown
from serve.app.occlusion import occlusion_map
from serve.app.parts import LIVE, Seen, chooser, html
from serve.app.tables import DATASETS, comparison, explanation, published
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder

SOURCES = [("The digit", "mnist"), ("The picture", "cifar10")]
# These take long enough to show that they are under way.
SLOW = {**LIVE, "show_progress": "minimal"}


async def _shown(decoder: Decoder, seen: Seen, dataset: str) -> tuple[Pixels, str]:
    """Choose what the visitor showed for `dataset`, else an example, with a line that says so."""
    pixels = seen.of(dataset)
    if pixels is not None:
        return pixels, ""
    note = (
        f'<p class="note">This is an example: you have {"drawn" if dataset == "mnist" else "chosen"} nothing yet.</p>'
    )
    return await example(decoder, dataset), note


def compare_tab(engine: Engine, decoder: Decoder, seen: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab that shows one picture to all models of its dataset."""

    async def side_by_side(dataset: str, seen: Seen) -> str:
        try:
            pixels, note = await _shown(decoder, seen, dataset)
            answers = await ask_all(engine, dataset, pixels)
        except ApiError as error:
            return message(f"No answer: {error.message}.")
        if not answers:
            return message("No model is ready.")
        return note + comparison(pixels, answers, cards(engine.settings.models), engine.models())

    async def enter(seen: Seen) -> tuple[gr.Radio, str]:
        return gr.Radio(value=seen.latest), await side_by_side(seen.latest, seen)

    source = gr.Radio(SOURCES, value="mnist", label="Compare the models on")
    table = html("", "comparison")
    tab.select(enter, seen, [source, table], **SLOW)
    source.input(side_by_side, [source, seen], table, **SLOW)


def understand_tab(engine: Engine, decoder: Decoder, seen: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab that shows where one model looks, and what it mixes up."""

    async def explain(dataset: str, model: str | None, seen: Seen) -> str:
        if model is None:
            return message("No model is ready.")
        try:
            pixels, note = await _shown(decoder, seen, dataset)
            found = await occlusion_map(engine, model, pixels)
        except ApiError as error:
            return message(f"No answer: {error.message}.")
        return note + explanation(pixels, found, cards(engine.settings.models).get(model))

    async def turn(dataset: str, seen: Seen) -> tuple[gr.Dropdown, str]:
        models = ready(engine, dataset)
        return chooser(engine, dataset), await explain(dataset, models[0].name if models else None, seen)

    async def enter(seen: Seen) -> tuple[gr.Radio, gr.Dropdown, str]:
        return gr.Radio(value=seen.latest), *await turn(seen.latest, seen)

    with gr.Row():
        source = gr.Radio(SOURCES, value="mnist", label="Where the model looks in", min_width=260)
        model = chooser(engine, "mnist")
    study = html("", "study")
    tab.select(enter, seen, [source, model, study], **SLOW)
    source.input(turn, [source, seen], [model, study], **SLOW)
    model.input(explain, [source, model, seen], study, **SLOW)


def models_tab(engine: Engine, tab: gr.Tab) -> None:
    """Lay out the tab of all figures beside the paper's, the report where there is one, and each model's card."""
    folder = engine.settings.models

    def documents() -> dict[str, Path]:
        """Find what can be read here, by its name in the chooser."""
        # The report stands beside the folder of published models, as train/report.py writes it.
        found = {"Report": folder.resolve().parent / "REPORT.md"}
        for card in cards(folder).values():
            found[f"{title(card.name)}, {DATASETS.get(card.dataset, card.dataset)}"] = card.folder / "README.md"
        return {name: path for name, path in found.items() if path.is_file()}

    def read(chosen: str | None) -> str:
        path = documents().get(chosen or "")
        return markdown(path) if path else ""

    def enter() -> tuple[str, gr.Dropdown, str]:
        found = cards(folder)
        if not found:
            return message(f"No model is published in {folder.name}."), gr.Dropdown([], value=None), ""
        names = list(documents())
        first = names[0] if names else None
        return (
            published(found, engine.models()),
            gr.Dropdown([(name, name) for name in names], value=first),
            read(first),
        )

    table = html("", "published")
    choice = gr.Dropdown([], label="Read", interactive=True)
    card = gr.Markdown("", elem_id="card")
    tab.select(enter, None, [table, choice, card], **SLOW)
    choice.input(read, choice, card, **SLOW)
