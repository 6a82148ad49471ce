"""The app's named calls for `gradio_client`: the page's preparation and models, with results as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from serve.app.components import image_input
from serve.app.gradio_internals import refusal
from serve.app.inference import Pixels, Prediction, best_model, predict, predict_all, ready_models
from serve.app.inputs import digit_from_file, picture_from_file
from serve.engine.batching import Engine
from serve.errors import ApiError, BadImage
from serve.images.decoder import Decoder
from serve.routes.classify import predictions

DATASETS = ("mnist", "cifar10")
DIRECT: dict[str, Any] = {"queue": False, "api_visibility": "public"}


def add_client_api(engine: Engine, decoder: Decoder) -> None:
    """Add the calls `/classify_digit`, `/classify_picture`, `/compare` and `/models` to the page."""

    async def classify_digit(image: str | None, model: str = "") -> dict[str, Any]:
        """Read the digit in a drawing or photo. `model` is a name from /models; empty: the most accurate one.

        Returns the model, its predictions (label, index, probability; best first), and `problem`: null, or why there is
        no prediction or an unsure one (blank, dot, several, scribble).
        """
        with _errors():
            digit = await digit_from_file(decoder, _given(image))
            if digit.pixels is None:
                return {"model": None, "predictions": [], "problem": digit.problem}
            prediction = await predict(engine, model or best_model(engine, "mnist"), digit.pixels)
            return {**_json(prediction), "problem": digit.problem}

    async def classify_picture(image: str | None, model: str = "") -> dict[str, Any]:
        """Name the CIFAR-10 class of a picture's centre square. `model` is as in /classify_digit."""
        with _errors():
            pixels = await picture_from_file(decoder, _given(image))
            return _json(await predict(engine, model or best_model(engine, "cifar10"), pixels))

    async def compare(image: str | None, dataset: str = "cifar10") -> list[dict[str, Any]]:
        """Run every ready model of `dataset` (mnist or cifar10) on one picture; each result has its milliseconds."""
        if dataset not in DATASETS:
            raise refusal(f"unknown dataset {dataset!r}; valid are mnist and cifar10")
        with _errors():
            pixels = await _prepared(decoder, _given(image), dataset)
            results = await predict_all(engine, dataset, pixels)
        return [{**_json(result), "milliseconds": round(1e3 * result.seconds, 2)} for result in results]

    def models() -> list[str]:
        """List the names of the ready models: per dataset, the most accurate first."""
        return [model.name for dataset in DATASETS for model in ready_models(engine, dataset)]

    with gr.Column(visible=False):
        image = image_input("image", "api-image")
        model = gr.Textbox("", label="model")
        dataset = gr.Textbox("cifar10", label="dataset")
        result = gr.JSON(label="answer")
        gr.Button().click(classify_digit, [image, model], result, api_name="classify_digit", **DIRECT)
        gr.Button().click(classify_picture, [image, model], result, api_name="classify_picture", **DIRECT)
        gr.Button().click(compare, [image, dataset], result, api_name="compare", **DIRECT)
        gr.Button().click(models, None, result, api_name="models", **DIRECT)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the server's errors into Gradio's, which reach the client."""
    try:
        yield
    except ApiError as error:
        raise refusal(error.message) from error


def _given(image: str | None) -> str:
    if image is None:
        raise BadImage(400, "no picture was given")
    return image


async def _prepared(decoder: Decoder, image: str, dataset: str) -> Pixels:
    if dataset == "cifar10":
        return await picture_from_file(decoder, image)
    pixels = (await digit_from_file(decoder, image)).pixels
    if pixels is None:
        raise refusal("there is no digit in the picture")
    return pixels


def _json(prediction: Prediction) -> dict[str, Any]:
    return {"model": prediction.model, "predictions": predictions(prediction.labels, prediction.probabilities)}
