"""The two tabs that classify an image: a drawn or photographed digit, and a picture."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

import gradio as gr

from serve.app.components import LIVE, LastInputs, chooser, drawing_pad, html, image_input
from serve.app.inference import best_model, predict
from serve.app.inputs import EXAMPLES, digit_from_drawing, digit_from_file, picture_from_file
from serve.app.result_html import digit_result, message, picture_result
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder
from serve.images.digits import Digit

BLANK = Digit(None, "blank")
NO_PICTURE = "Choose a picture, paste one, or take a photo."


def digit_tab(engine: Engine, decoder: Decoder, last: gr.State) -> gr.Dropdown:
    """Lay out the tab and return its dropdown of models. The prepared digit is stored in `last`."""
    shown = gr.State(BLANK)

    async def classify(digit: Digit, model: str | None) -> str:
        if digit.pixels is None:
            return digit_result(digit, None)
        try:
            return digit_result(digit, await predict(engine, model or best_model(engine, "mnist"), digit.pixels))
        except ApiError as error:
            return message(f"No answer: {error.message}.")

    async def show(prepared: Awaitable[Digit], model: str | None, last: LastInputs) -> tuple[str, Digit, LastInputs]:
        try:
            digit = await prepared
        except ApiError as error:
            return message(f"{error.message}."), BLANK, replace(last, mnist=None)
        return await classify(digit, model), digit, replace(last, mnist=digit.pixels, latest="mnist")

    async def draw(strokes: str | None, model: str | None, last: LastInputs) -> tuple[str, Digit, LastInputs]:
        return await show(digit_from_drawing(decoder, strokes), model, last)

    async def photograph(path: str | None, model: str | None, last: LastInputs) -> tuple[str, Digit, LastInputs]:
        return await show(digit_from_file(decoder, path), model, last)

    with gr.Row():
        with gr.Column(min_width=300), gr.Tabs():
            with gr.Tab("Draw"):
                canvas = drawing_pad()
            with gr.Tab("Photo"):
                photo = image_input("A digit on paper", "digit-photo")
                gr.Examples(sorted(str(path) for path in EXAMPLES.glob("digit-*")), photo, label="Examples")
        with gr.Column(min_width=300):
            result = html(digit_result(BLANK, None), "digit-answer")
            model = chooser(engine, "mnist")
    canvas.change(draw, [canvas, model, last], [result, shown, last], **LIVE)
    photo.change(photograph, [photo, model, last], [result, shown, last], **LIVE)
    model.change(classify, [shown, model], result, **LIVE)
    return model


def picture_tab(engine: Engine, decoder: Decoder, last: gr.State) -> gr.Dropdown:
    """Lay out the tab and return its dropdown of models. The prepared picture is stored in `last`."""

    async def classify(last: LastInputs, model: str | None) -> str:
        if last.cifar10 is None:
            return message(NO_PICTURE)
        try:
            prediction = await predict(engine, model or best_model(engine, "cifar10"), last.cifar10)
        except ApiError as error:
            return message(f"No answer: {error.message}.")
        return picture_result(last.cifar10, prediction)

    async def show(path: str | None, model: str | None, last: LastInputs) -> tuple[str, LastInputs]:
        try:
            pixels = None if path is None else await picture_from_file(decoder, path)
        except ApiError as error:
            return message(f"{error.message}."), replace(last, cifar10=None)
        last = replace(last, cifar10=pixels, latest="cifar10")
        return await classify(last, model), last

    with gr.Row():
        with gr.Column(min_width=300):
            picture = image_input("A picture", "picture")
            gr.Examples(sorted(str(path) for path in EXAMPLES.glob("picture-*")), picture, label="Examples")
        with gr.Column(min_width=300):
            result = html(message(NO_PICTURE), "picture-answer")
            model = chooser(engine, "cifar10")
    picture.change(show, [picture, model, last], [result, last], **LIVE)
    model.change(classify, [last, model], result, **LIVE)
    return model
