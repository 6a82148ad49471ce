"""The panel below the tabs that classify: it looks inside the chosen network while one draws or moves the image."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import gradio as gr

from serve.app.failures import failure
from serve.app.html.inside import panel
from serve.app.html.results import PROBLEMS, message
from serve.app.inference import KINDS, Kind, chosen_model, offered_kinds, predict
from serve.app.inputs import Given, prepare
from serve.app.inside import asked, moved
from serve.app.tabs.components import LIVE, STATIC, Sources
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder

# What inside.js wants to see, and each answer of the tabs.
TELL = 'document.addEventListener("zoo-look", (event) => { props.value = event.detail; });'
NOTHING: dict[Kind, str] = {
    "digit": PROBLEMS["blank"],
    "picture": "Choose a picture, and its maps appear here.",
    "image": "Choose an image, and its maps appear here.",
}


async def look_inside(
    engine: Engine, decoder: Decoder, text: object, models: Mapping[Kind, str | None], given: Given
) -> str:
    """Build the panel for what a visitor has given, and wants to see of it."""
    wanted = asked(text)
    kind = wanted.kind or offered_kinds(engine)[0]
    try:
        model = chosen_model(engine, kind, models[kind])
        prepared = await prepare(decoder, given, model)
        if prepared.pixels is None:
            return message(NOTHING[kind])
        pixels = moved(prepared.pixels, wanted.x, wanted.y)
        look, prediction = await engine.look(model.name, pixels), await predict(engine, model.name, pixels)
    except ApiError as error:
        return failure(error)
    return await asyncio.to_thread(panel, pixels, look, prediction, wanted, prepared.problem)


def inside_panel(engine: Engine, decoder: Decoder, sources: Sources, models: Mapping[Kind, gr.Dropdown]) -> None:
    """Lay out the panel. Closed, it asks for nothing."""

    async def look(text: str | None, *given: str | None) -> str:
        named = dict(zip(KINDS, given, strict=False))
        return await look_inside(engine, decoder, text, named, Given(*given[len(KINDS) :]))  # type: ignore[arg-type]

    wish = gr.HTML("", html_template="", js_on_load=TELL, apply_default_css=False, elem_id="wish", visible="hidden")
    shown = gr.HTML(
        "",
        html_template=(STATIC / "inside.html").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "inside.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="inside",
    )
    wish.change(look, [wish, *(models[kind] for kind in KINDS), *sources.all], shown, **LIVE)
