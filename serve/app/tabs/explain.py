"""The tabs that explain: compare the models, see where a model looks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr

from serve.app.failures import failure
from serve.app.html.results import PROBLEMS, message
from serve.app.html.tables import comparison, covered_result, explanation
from serve.app.inference import KINDS, Kind, Pixels, Prediction, alike, chosen_model, offered_kinds, predict
from serve.app.inputs import Given, prepare_or_example
from serve.app.inside import ClassMap, class_map
from serve.app.model_cards import read_cards
from serve.app.occlusion import OcclusionMap, cover_square, occlusion_map
from serve.app.tabs.components import LIVE, SLOW, Sources, chooser, html
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo, Scores
from serve.errors import ApiError
from serve.images.decoder import Decoder

CHOICES: dict[Kind, tuple[str, str]] = {kind: (f"The {kind}", kind) for kind in KINDS}
EXAMPLE = '<p class="note">This is an example: you have not {} yet.</p>'
NOTES: dict[Kind, str] = {"digit": EXAMPLE.format("drawn a digit"), "picture": EXAMPLE.format("chosen a picture")}
COMPARE, UNDERSTAND = "Compare the models on", "Where the model looks in"
COVERING = "cover"
MOST_WAYS = 20  # classes whose activation maps are offered
# The square that page.js lets a visitor drag over the image.
TELL_SPOT = 'document.addEventListener("zoo-cover", (event) => { props.value = event.detail; });'
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


async def _study(
    engine: Engine, decoder: Decoder, kind: Any, model: str | None, given: Given, way: str | None
) -> tuple[gr.Dropdown, str]:
    """Say what a model makes of the image, and show where it looks.

    Args:
        engine: runs the models.
        decoder: reads the images.
        kind: of the image.
        model: its name.
        given: what the visitor has given.
        way: how the map is made: COVERING, or the index of the class of an activation map; None for what comes at once:
            the predicted class's activation map where the network has one, else none yet.

    Returns:
        The choice of maps that there are, and the panel.
    """
    kind = _kind(engine, kind)
    try:
        chosen = chosen_model(engine, kind, model)
        shown = await prepare_or_example(decoder, given, chosen)
        if shown.pixels is None:
            return _ways(None, None), message(NO_IMAGE if kind == "image" else PROBLEMS["blank"])
        prediction = await predict(engine, chosen.name, shown.pixels)
        maps = await _class_maps(engine, chosen, shown.pixels)
        found: OcclusionMap | ClassMap | None = None
        if maps is not None and maps[0].size > 1:
            found = class_map(maps, _label(way, prediction), shown.pixels.shape[:2])
        ways = _ways(prediction if found else None, way)
        if way is not None and (way == COVERING or found is None):
            found = await occlusion_map(engine, chosen.name, shown.pixels)
    except ApiError as error:
        return _ways(None, None), failure(error)
    card = (await asyncio.to_thread(read_cards, engine.settings.models)).get(chosen.name)
    note = NOTES[kind] if shown.is_example else ""
    one_place = maps is not None and maps[0].size == 1
    return ways, note + explanation(shown.pixels, prediction, card, found, shown.problem, one_place=one_place)


async def _class_maps(engine: Engine, model: ModelInfo, pixels: Pixels) -> Scores | None:
    """Compute the class activation maps, float32 [classes, height, width]; None for a model that has none."""
    if not await engine.studies.has_class_maps(model):
        return None
    return (await engine.look(model.name, pixels)).class_maps


def _label(way: str | None, prediction: Prediction) -> int:
    """Return the index of the class that `way` names, or of the predicted one."""
    names = [str(index) for index in range(len(prediction.labels))]
    return names.index(way) if way in names else prediction.best


def _ways(prediction: Prediction | None, way: str | None) -> gr.Dropdown:
    """Build the choice of maps; hidden without a prediction, where covering is the only way."""
    choices = [("Effect of covering each spot", COVERING)]
    if prediction is not None:
        best = prediction.order[:MOST_WAYS]
        choices = [(f"Evidence for {prediction.labels[index]}", str(index)) for index in best] + choices
    values = [value for _, value in choices]
    value = way if way in values else values[0]
    shown = prediction is not None
    return gr.Dropdown(choices, value=value, label="Map", visible=shown, interactive=True, min_width=260)


async def _covered(
    engine: Engine, decoder: Decoder, spot: str | None, kind: Any, model: str | None, given: Given
) -> str:
    """Classify the image with one square covered, whose middle is `spot`: "x,y", in shares of the image."""
    try:
        x, y = map(float, str(spot).split(","))
    except ValueError:
        return ""
    if not (0 <= x <= 1 and 0 <= y <= 1):  # written so that NaN is refused
        return ""
    try:
        chosen = chosen_model(engine, _kind(engine, kind), model)
        shown = await prepare_or_example(decoder, given, chosen)
        if shown.pixels is None:
            return ""
        whole = await predict(engine, chosen.name, shown.pixels)
        covered = await predict(engine, chosen.name, cover_square(shown.pixels, x, y))
    except ApiError as error:
        return failure(error)
    return covered_result(whole, covered, shown.problem)


def understand_tab(
    engine: Engine,
    decoder: Decoder,
    sources: Sources,
    models: Mapping[Kind, gr.Dropdown],
    latest: gr.State,
    tab: gr.Tab,
) -> None:
    """Lay out the tab that shows where a model looks, and its confusions; see `compare_tab`."""

    # What the model says comes at once, with the class activation map if there is one. The map by covering, which takes
    # many runs of the model, comes after it.
    async def explain(kind: Any, model: str | None, *given: Any) -> tuple[gr.Dropdown, str]:
        return await _study(engine, decoder, kind, model, Given(*given), None)

    async def draw_map(way: str | None, kind: Any, model: str | None, *given: Any) -> str:
        return (await _study(engine, decoder, kind, model, Given(*given), way or COVERING))[1]

    async def finish(way: str | None, *chosen: Any) -> Any:
        return await draw_map(way, *chosen) if way in (None, COVERING) else gr.skip()

    async def cover_one(spot: str | None, kind: Any, model: str | None, *given: Any) -> str:
        return await _covered(engine, decoder, spot, kind, model, Given(*given))

    async def switch(kind: Any, *given: Any) -> tuple[gr.Dropdown, gr.Dropdown, str]:
        kind = _kind(engine, kind)
        model = given[KINDS.index(kind)]
        return chooser(engine, kind, model), *await explain(kind, model, *given[len(KINDS) :])

    async def enter(latest: Any, *given: Any) -> tuple[gr.Radio, gr.Dropdown, gr.Dropdown, str]:
        return _kind_chooser(engine, UNDERSTAND, latest), *await switch(latest, *given)

    with gr.Row():
        source = _kind_chooser(engine, UNDERSTAND)
        model = chooser(engine, offered_kinds(engine)[0])
        way = _ways(None, None)
    place = html("", "study")
    bars = html("", "covered")
    spot = gr.HTML(
        "", html_template="", js_on_load=TELL_SPOT, apply_default_css=False, elem_id="spot", visible="hidden"
    )
    given = [*(models[kind] for kind in KINDS), *sources.all]
    chosen = [source, model, *sources.all]
    drawn = [way, *chosen]
    tab.select(enter, [latest, *given], [source, model, way, place], **SLOW).then(finish, drawn, place, **LIVE)
    source.input(switch, [source, *given], [model, way, place], **SLOW).then(finish, drawn, place, **LIVE)
    model.input(explain, chosen, [way, place], **SLOW).then(finish, drawn, place, **LIVE)
    way.input(draw_map, drawn, place, **SLOW)
    spot.change(cover_one, [spot, *chosen], bars, **LIVE)
