"""The app's named calls for `gradio_client`: the same preparation and models as the page, answers as JSON."""

from __future__ import annotations

from typing import Any

import gradio as gr

from serve.app.answer import Answer
from serve.app.ask import ask, ask_all, best, digit_from_file, picture_from_file, ready
from serve.app.parts import picture_input, refusal
from serve.engine.batching import Engine
from serve.errors import ApiError, BadImage
from serve.images.decoder import Decoder
from serve.routes.classify import predictions

DIRECT: dict[str, Any] = {"queue": False, "api_visibility": "public"}


def add_api(engine: Engine, decoder: Decoder) -> None:
    """Add `/classify_digit`, `/classify_picture`, `/compare` and `/models` to the page's API."""

    async def classify_digit(image: str | None, model: str = "") -> dict[str, Any]:
        """Read the digit in a drawing or photo. `model` is a name from /models; empty: the most accurate one.

        Returns the model, its predictions (label, index, probability; best first), and `problem`: null, or why there is
        no answer or an unsure one (blank, dot, several, scribble).
        """
        try:
            digit = await digit_from_file(decoder, _given(image))
            said = None if digit.pixels is None else await ask(engine, model or best(engine, "mnist"), digit.pixels)
        except ApiError as error:
            raise refusal(error.message) from error
        return {**(_answer(said) if said else {"model": None, "predictions": []}), "problem": digit.problem}

    async def classify_picture(image: str | None, model: str = "") -> dict[str, Any]:
        """Name the CIFAR-10 class of a picture's centre square. `model` is as in /classify_digit."""
        try:
            pixels = await picture_from_file(decoder, _given(image))
            return _answer(await ask(engine, model or best(engine, "cifar10"), pixels))
        except ApiError as error:
            raise refusal(error.message) from error

    async def compare(image: str | None, dataset: str = "cifar10") -> list[dict[str, Any]]:
        """Ask every ready model of `dataset` (mnist or cifar10) about one picture; answers come with milliseconds."""
        if dataset not in ("mnist", "cifar10"):
            raise refusal(f"unknown dataset {dataset!r}; valid are mnist and cifar10")
        try:
            if dataset == "mnist":
                pixels = (await digit_from_file(decoder, _given(image))).pixels
            else:
                pixels = await picture_from_file(decoder, _given(image))
            if pixels is None:
                raise refusal("there is no digit in the picture")
            answers = await ask_all(engine, dataset, pixels)
        except ApiError as error:
            raise refusal(error.message) from error
        return [{**_answer(answer), "milliseconds": round(1e3 * answer.seconds, 2)} for answer in answers]

    def models() -> list[str]:
        """List the names of the ready models, for each dataset the most accurate first."""
        return [model.name for dataset in ("mnist", "cifar10") for model in ready(engine, dataset)]

    with gr.Column(visible=False):
        image = picture_input("image", "api-image")
        model = gr.Textbox("", label="model")
        dataset = gr.Textbox("cifar10", label="dataset")
        answer = gr.JSON(label="answer")
        gr.Button().click(classify_digit, [image, model], answer, api_name="classify_digit", **DIRECT)
        gr.Button().click(classify_picture, [image, model], answer, api_name="classify_picture", **DIRECT)
        gr.Button().click(compare, [image, dataset], answer, api_name="compare", **DIRECT)
        gr.Button().click(models, None, answer, api_name="models", **DIRECT)


def _given(image: str | None) -> str:
    if image is None:
        raise BadImage(400, "no picture was given")
    return image


def _answer(answer: Answer) -> dict[str, Any]:
    return {"model": answer.model, "predictions": predictions(answer.labels, answer.probabilities)}
