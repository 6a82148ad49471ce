"""The tabs that classify: a drawn or photographed digit, a picture, and an image for models of other classes."""

from __future__ import annotations

from typing import Any

import gradio as gr

from serve.app.failures import failure
from serve.app.html.judges import no_votes, votes
from serve.app.html.results import OF_PHOTO, OF_SQUARE, PROBLEMS, digit_result, message, picture_result
from serve.app.inference import Kind, alike, chosen_model, predict
from serve.app.inputs import EXAMPLES, Given, digit_of, prepare
from serve.app.tabs.components import LIVE, chooser, crop_square, drawing_pad, html, image_input
from serve.engine.batching import Engine
from serve.errors import ApiError
from serve.images.decoder import Decoder
from serve.images.digits import Digit

BLANK = Digit(None, "blank")
NOTHING = {
    "picture": "Choose a picture, paste one, or take a photo.",
    "image": "Choose an image, paste one, or take a photo.",
}


async def _read(engine: Engine, decoder: Decoder, given: Given, model: str | None, voting: bool) -> str:
    """Read the digit with a model, and let all others vote on it too if `voting`."""
    try:
        digit = await digit_of(decoder, given)
        problems = PROBLEMS
        if given.source == "photo" and given.photo is not None:
            problems = OF_SQUARE if given.crop("digit") else OF_PHOTO
        if digit.pixels is None and not voting:
            return digit_result(digit, None, problems)
        chosen = chosen_model(engine, "digit", model)
        if digit.pixels is None:
            return digit_result(digit, None, problems) + no_votes([one.name for one in alike(engine, chosen)])
        result = digit_result(digit, await predict(engine, chosen.name, digit.pixels), problems)
        if voting:
            said = [await predict(engine, one.name, digit.pixels) for one in alike(engine, chosen)]
            result += votes(said, digit.problem)
        return result
    except ApiError as error:
        return failure(error)


def digit_tab(
    engine: Engine, decoder: Decoder, latest: gr.State
) -> tuple[gr.Dropdown, gr.HTML, gr.Image, gr.State, gr.HTML]:
    """Lay out the tab. `latest` gets the kind that was classified last.

    Returns:
        The dropdown of models, the drawing pad, the box for a photo, which of the two is read: "draw" or "photo", and
        the square that crops the photo.
    """
    source = gr.State("draw")

    async def classify(
        drawing: str | None, photo: str | None, source: Any, crop: str | None, model: str | None, voting: bool
    ) -> str:
        given = Given(drawing, photo, source=source, photo_crop=crop)
        return await _read(engine, decoder, given, model, voting)

    async def draw(drawing: str | None, model: str | None, voting: bool) -> tuple[str, str, Kind]:
        return await classify(drawing, None, "draw", None, model, voting), "draw", "digit"

    async def part(photo: str | None, crop: str | None, model: str | None, voting: bool) -> tuple[str, str, Kind]:
        return await classify(None, photo, "photo", crop, model, voting), "photo", "digit"

    async def photograph(photo: str | None, model: str | None, voting: bool) -> tuple[str, str, Kind]:
        return await part(photo, None, model, voting)

    with gr.Row(elem_classes="try"):
        with gr.Column(min_width=300, elem_classes="give"), gr.Tabs():
            with gr.Tab("Draw") as drawing:
                canvas = drawing_pad()
            with gr.Tab("Photo") as photographing:
                photo = image_input("A digit on paper", "digit-photo")
                crop = crop_square(photo, "digit-crop")
                gr.Examples(sorted(str(path) for path in EXAMPLES.glob("digit-*")), photo, label="Examples")
        with gr.Column(min_width=300, elem_classes="get"):
            result = html(digit_result(BLANK, None), "digit-answer")
            model = chooser(engine, "digit")
            voting = gr.Checkbox(False, label="Let all networks vote", elem_id="voting")
    for event in (canvas.change, drawing.select):
        event(draw, [canvas, model, voting], [result, source, latest], **LIVE)
    photo.change(photograph, [photo, model, voting], [result, source, latest], **LIVE)
    for event in (crop.change, photographing.select):
        event(part, [photo, crop, model, voting], [result, source, latest], **LIVE)
    for event in (model.change, voting.change):
        event(classify, [canvas, photo, source, crop, model, voting], result, **LIVE)
    return model, canvas, photo, source, crop


def picture_tab(
    engine: Engine, decoder: Decoder, kind: Kind, latest: gr.State
) -> tuple[gr.Dropdown, gr.Image, gr.HTML]:
    """Lay out the tab of pictures or of images.

    Returns:
        Its dropdown of models, its box for a file, and the square that crops what is in the box.
    """

    async def classify(path: str | None, crop: str | None, model: str | None) -> str:
        if path is None:
            return message(NOTHING[kind])
        try:
            chosen = chosen_model(engine, kind, model)
            given = Given(picture=path, image=path, picture_crop=crop, image_crop=crop)
            prepared = await prepare(decoder, given, chosen)
            assert prepared.pixels is not None
            return picture_result(prepared.pixels, await predict(engine, chosen.name, prepared.pixels))
        except ApiError as error:
            return failure(error)

    async def part(path: str | None, crop: str | None, model: str | None) -> tuple[str, Kind]:
        return await classify(path, crop, model), kind

    async def show(path: str | None, model: str | None) -> tuple[str, Kind]:
        return await part(path, None, model)

    with gr.Row(elem_classes="try"):
        with gr.Column(min_width=300, elem_classes="give"):
            box = image_input(f"{'A' if kind == 'picture' else 'An'} {kind}", kind)
            crop = crop_square(box, f"{kind}-crop")
            if kind == "picture":
                gr.Examples(sorted(str(path) for path in EXAMPLES.glob("picture-*")), box, label="Examples")
        with gr.Column(min_width=300, elem_classes="get"):
            result = html(message(NOTHING[kind]), f"{kind}-answer")
            model = chooser(engine, kind)
    box.change(show, [box, model], [result, latest], **LIVE)
    crop.change(part, [box, crop, model], [result, latest], **LIVE)
    model.change(classify, [box, crop, model], result, **LIVE)
    return model, box, crop
