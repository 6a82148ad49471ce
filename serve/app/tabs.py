"""The two tabs that take a picture: draw (or photograph) a digit, and classify a picture."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

import gradio as gr

from serve.app.answer import digit_answer, message, picture_answer
from serve.app.ask import ask, best, digit_from_drawing, digit_from_file, picture_from_file
from serve.app.parts import EXAMPLES, LIVE, Seen, chooser, html, pad, picture_input
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder
from serve.images.digits import Digit

BLANK = Digit(None, "blank")
NO_PICTURE = "Choose a picture, paste one, or take a photo."


def digit_tab(engine: Engine, decoder: Decoder, seen: gr.State) -> gr.Dropdown:
    """Lay out the tab and return its chooser of models. What is drawn goes into `seen`."""
    shown = gr.State(BLANK)

    async def answer(digit: Digit, model: str | None) -> str:
        if digit.pixels is None:
            return digit_answer(digit, None)
        try:
            return digit_answer(digit, await ask(engine, model or best(engine, "mnist"), digit.pixels))
        except ApiError as error:
            return message(f"No answer: {error.message}.")

    async def show(asked: Awaitable[Digit], model: str | None, seen: Seen) -> tuple[str, Digit, Seen]:
        try:
            digit = await asked
        except ApiError as error:
            return message(f"{error.message}."), BLANK, replace(seen, mnist=None)
        return await answer(digit, model), digit, replace(seen, mnist=digit.pixels, latest="mnist")

    async def draw(data_url: str | None, model: str | None, seen: Seen) -> tuple[str, Digit, Seen]:
        return await show(digit_from_drawing(decoder, data_url), model, seen)

    async def photograph(path: str | None, model: str | None, seen: Seen) -> tuple[str, Digit, Seen]:
        return await show(digit_from_file(decoder, path), model, seen)

    with gr.Row():
        with gr.Column(min_width=300), gr.Tabs():
            with gr.Tab("Draw"):
                canvas = pad()
            with gr.Tab("Photo"):
                photo = picture_input("A digit on paper", "digit-photo")
                gr.Examples(sorted(str(path) for path in EXAMPLES.glob("digit-*")), photo, label="Examples")
        with gr.Column(min_width=300):
            result = html(digit_answer(BLANK, None), "digit-answer")
            model = chooser(engine, "mnist")
    canvas.change(draw, [canvas, model, seen], [result, shown, seen], **LIVE)
    photo.change(photograph, [photo, model, seen], [result, shown, seen], **LIVE)
    model.change(answer, [shown, model], result, **LIVE)
    return model


def picture_tab(engine: Engine, decoder: Decoder, seen: gr.State) -> gr.Dropdown:
    """Lay out the tab and return its chooser of models. What is chosen goes into `seen`."""

    async def answer(seen: Seen, model: str | None) -> str:
        if seen.cifar10 is None:
            return message(NO_PICTURE)
        try:
            return picture_answer(seen.cifar10, await ask(engine, model or best(engine, "cifar10"), seen.cifar10))
        except ApiError as error:
            return message(f"No answer: {error.message}.")

    async def look(path: str | None, model: str | None, seen: Seen) -> tuple[str, Seen]:
        try:
            pixels = None if path is None else await picture_from_file(decoder, path)
        except ApiError as error:
            return message(f"{error.message}."), replace(seen, cifar10=None)
        seen = replace(seen, cifar10=pixels, latest="cifar10")
        return await answer(seen, model), seen

    with gr.Row():
        with gr.Column(min_width=300):
            picture = picture_input("A picture", "picture")
            gr.Examples(sorted(str(path) for path in EXAMPLES.glob("picture-*")), picture, label="Examples")
        with gr.Column(min_width=300):
            result = html(message(NO_PICTURE), "picture-answer")
            model = chooser(engine, "cifar10")
    picture.change(look, [picture, model, seen], [result, seen], **LIVE)
    model.change(answer, [seen, model], result, **LIVE)
    return model
