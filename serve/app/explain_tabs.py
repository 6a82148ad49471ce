"""The tabs that explain: compare the models, see where a model looks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr

from serve.app.components import SLOW, Sources, chooser, html
from serve.app.failures import failure
from serve.app.inference import KINDS, Kind, alike, chosen_model, offered_kinds, predict
from serve.app.inputs import Given, prepare_or_example
from serve.app.model_cards import read_cards
from serve.app.occlusion import occlusion_map
from serve.app.result_html import PROBLEMS, message
from serve.app.table_html import comparison, explanation
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder

CHOICES: dict[Kind, tuple[str, str]] = {kind: (f"The {kind}", kind) for kind in KINDS}
EXAMPLE = '<p class="note">This is an example: you have not {} yet.</p>'
NOTES: dict[Kind, str] = {"digit": EXAMPLE.format("drawn a digit"), "picture": EXAMPLE.format("chosen a picture")}
COMPARE, UNDERSTAND = "Compare the models on", "Where the model looks in"
NO_IMAGE = "Choose an image first, in the tab Image."


def _kind(engine: Engine, chosen: Any) -> Kind:
    """Return the kind that a visitor has chosen; if the app does not offer it, the first."""
    offered = offered_kinds(engine)
    return chosen if chosen in offered else offered[0]


def _kind_chooser(engine: Engine, label: str, chosen: Any = None) -> gr.Radio:
    """Build the choice among the kinds of images that there are models for; hidden if there is one alone."""
    offered = offered_kinds(engine)
    choices = [CHOICES[kind] for kind in offered]
    return gr.Radio(choices, value=_kind(engine, chosen), label=label, visible=len(offered) > 1, min_width=260)


def compare_tab(
    engine: Engine,
    decoder: Decoder,
    sources: Sources,
    models: Mapping[Kind, gr.Dropdown],
    latest: gr.State,
    tab: gr.Tab,
) -> None:
    """Lay out the tab that runs all models with the same classes on one image.

    Args:
        engine: runs the models.
        decoder: reads the images.
        sources: what the visitor has given.
        models: the dropdowns in the tabs of each kind; their values choose the classes.
        latest: the kind that was classified last.
        tab: the tab itself.
    """

    async def side_by_side(kind: Any, digit: str | None, picture: str | None, image: str | None, *given: Any) -> str:
        kind = _kind(engine, kind)
        named: dict[Kind, str | None] = {"digit": digit, "picture": picture, "image": image}
        predictions = []
        try:
            chosen = chosen_model(engine, kind, named[kind])
            shown = await prepare_or_example(decoder, Given(*given), chosen)
            if shown.pixels is None:
                return message(NO_IMAGE if kind == "image" else PROBLEMS["blank"])
            # One after another: no model's time includes another's.
            for model in alike(engine, chosen):
                seen = shown
                if model.image_size != chosen.image_size:
                    seen = await prepare_or_example(decoder, Given(*given), model)
                assert seen.pixels is not None
                predictions.append(await predict(engine, model.name, seen.pixels))
        except ApiError as error:
            return failure(error)
        cards = await asyncio.to_thread(read_cards, engine.settings.models)
        note = NOTES[kind] if shown.is_example else ""
        return note + comparison(shown.pixels, predictions, cards, engine.models(), shown.problem)

    async def enter(latest: Any, *given: Any) -> tuple[gr.Radio, str]:
        return _kind_chooser(engine, COMPARE, latest), await side_by_side(latest, *given)

    source = _kind_chooser(engine, COMPARE)
    table = html("", "comparison")
    given = [*(models[kind] for kind in KINDS), *sources.all]
    tab.select(enter, [latest, *given], [source, table], **SLOW)
    source.input(side_by_side, [source, *given], table, **SLOW)


def understand_tab(
    engine: Engine,
    decoder: Decoder,
    sources: Sources,
    models: Mapping[Kind, gr.Dropdown],
    latest: gr.State,
    tab: gr.Tab,
) -> None:
    """Lay out the tab that shows where a model looks, and its confusions; see `compare_tab`."""

    async def explain(kind: Any, model: str | None, *given: Any) -> str:
        kind = _kind(engine, kind)
        try:
            chosen = chosen_model(engine, kind, model)
            shown = await prepare_or_example(decoder, Given(*given), chosen)
            if shown.pixels is None:
                return message(NO_IMAGE if kind == "image" else PROBLEMS["blank"])
            found = await occlusion_map(engine, chosen.name, shown.pixels)
        except ApiError as error:
            return failure(error)
        cards = await asyncio.to_thread(read_cards, engine.settings.models)
        note = NOTES[kind] if shown.is_example else ""
        return note + explanation(shown.pixels, found, cards.get(chosen.name), shown.problem)

    async def switch(kind: Any, *given: Any) -> tuple[gr.Dropdown, str]:
        kind = _kind(engine, kind)
        model = given[KINDS.index(kind)]
        return chooser(engine, kind, model), await explain(kind, model, *given[len(KINDS) :])

    async def enter(latest: Any, *given: Any) -> tuple[gr.Radio, gr.Dropdown, str]:
        return _kind_chooser(engine, UNDERSTAND, latest), *await switch(latest, *given)

    with gr.Row():
        source = _kind_chooser(engine, UNDERSTAND)
        model = chooser(engine, offered_kinds(engine)[0])
    study = html("", "study")
    given = [*(models[kind] for kind in KINDS), *sources.all]
    tab.select(enter, [latest, *given], [source, model, study], **SLOW)
    source.input(switch, [source, *given], [model, study], **SLOW)
    model.input(explain, [source, model, *sources.all], study, **SLOW)
