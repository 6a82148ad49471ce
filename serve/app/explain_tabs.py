"""The tabs that explain: compare the models, see where a model looks, read the cards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gradio as gr

from serve.app.components import SLOW, LastInputs, chooser, html
from serve.app.inference import Pixels, predict_all, ready_models
from serve.app.inputs import example
from serve.app.model_cards import markdown, read_cards, report
from serve.app.occlusion import occlusion_map
from serve.app.result_html import message, title
from serve.app.table_html import DATASETS, comparison, explanation, published
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder

SOURCES = [("The digit", "mnist"), ("The picture", "cifar10")]
EXAMPLE = '<p class="note">This is an example: you have not {} yet.</p>'
NOTES = {"mnist": EXAMPLE.format("drawn a digit"), "cifar10": EXAMPLE.format("chosen a picture")}


async def _input(decoder: Decoder, last: LastInputs, dataset: str) -> tuple[Pixels, str]:
    """Return the visitor's last input for `dataset`; if there is none, an example and a note that says so."""
    pixels = last.of(dataset)
    return (pixels, "") if pixels is not None else (await example(decoder, dataset), NOTES[dataset])


def compare_tab(engine: Engine, decoder: Decoder, last: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab that runs all models of a dataset on one image."""

    async def side_by_side(dataset: str, last: LastInputs) -> str:
        try:
            pixels, note = await _input(decoder, last, dataset)
            predictions = await predict_all(engine, dataset, pixels)
        except ApiError as error:
            return message(f"No answer: {error.message}.")
        if not predictions:
            return message("No model is ready.")
        cards = await asyncio.to_thread(read_cards, engine.settings.models)
        return note + comparison(pixels, predictions, cards, engine.models())

    async def enter(last: LastInputs) -> tuple[gr.Radio, str]:
        return gr.Radio(value=last.latest), await side_by_side(last.latest, last)

    source = gr.Radio(SOURCES, value="mnist", label="Compare the models on")
    table = html("", "comparison")
    tab.select(enter, last, [source, table], **SLOW)
    source.input(side_by_side, [source, last], table, **SLOW)


def understand_tab(engine: Engine, decoder: Decoder, last: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab that shows where a model looks, and its confusions."""

    async def explain(dataset: str, model: str | None, last: LastInputs) -> str:
        if model is None:
            return message("No model is ready.")
        try:
            pixels, note = await _input(decoder, last, dataset)
            found = await occlusion_map(engine, model, pixels)
        except ApiError as error:
            return message(f"No answer: {error.message}.")
        cards = await asyncio.to_thread(read_cards, engine.settings.models)
        return note + explanation(pixels, found, cards.get(model))

    async def switch(dataset: str, last: LastInputs) -> tuple[gr.Dropdown, str]:
        models = ready_models(engine, dataset)
        return chooser(engine, dataset), await explain(dataset, models[0].name if models else None, last)

    async def enter(last: LastInputs) -> tuple[gr.Radio, gr.Dropdown, str]:
        return gr.Radio(value=last.latest), *await switch(last.latest, last)

    with gr.Row():
        source = gr.Radio(SOURCES, value="mnist", label="Where the model looks in", min_width=260)
        model = chooser(engine, "mnist")
    study = html("", "study")
    tab.select(enter, last, [source, model, study], **SLOW)
    source.input(switch, [source, last], [model, study], **SLOW)
    model.input(explain, [source, model, last], study, **SLOW)


def models_tab(engine: Engine, tab: gr.Tab) -> None:
    """Lay out the tab with the results of all models beside the paper's, the report and each model's card."""
    folder = engine.settings.models

    def documents() -> dict[str, Path]:
        """Find what can be read here, by its name in the dropdown."""
        found = {"Report": report(folder)}
        for card in read_cards(folder).values():
            found[f"{title(card.name)}, {DATASETS.get(card.dataset, card.dataset)}"] = card.folder / "README.md"
        return {name: path for name, path in found.items() if path is not None and path.is_file()}

    def text(chosen: str | None) -> str:
        path = documents().get(chosen or "")
        return markdown(path) if path else ""

    def overview() -> tuple[str, gr.Dropdown, str]:
        cards = read_cards(folder)
        if not cards:
            return message(f"No model is published in {folder.name}."), gr.Dropdown([], value=None), ""
        names = list(documents())
        first = names[0] if names else None
        choices = gr.Dropdown([(name, name) for name in names], value=first)
        return published(cards, engine.models()), choices, text(first)

    async def enter() -> tuple[str, gr.Dropdown, str]:
        return await asyncio.to_thread(overview)

    async def read(chosen: str | None) -> str:
        return await asyncio.to_thread(text, chosen)

    table = html("", "published")
    choice = gr.Dropdown([], label="Read", interactive=True)
    card = gr.Markdown("", elem_id="card")
    tab.select(enter, None, [table, choice, card], **SLOW)
    choice.input(read, choice, card, **SLOW)
