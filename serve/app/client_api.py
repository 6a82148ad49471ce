"""The app's named calls for `gradio_client`: the page's preparation and models, with results as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from inspect import signature
from typing import Any

import gradio as gr

from serve.app.direct_calls import Function
from serve.app.hardening.gradio_internals import uploaded
from serve.app.hardening.refusals import refusal
from serve.app.inference import (
    DATASETS,
    KINDS,
    Kind,
    Prediction,
    chosen_model,
    dataset_of,
    kind_of,
    predict,
    ready_models,
)
from serve.app.inputs import Given, Prepared, prepare
from serve.app.tabs.components import image_input
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo
from serve.errors import ApiError, BadImage, BadRequest
from serve.images.decoder import Decoder
from serve.routes.classify import predictions

# A file as Gradio describes it; its "path" is the one of interest.
Upload = dict[str, Any]
# Values come and go as JSON: Gradio would start a thread for each argument.
EVENT: dict[str, Any] = {"queue": False, "api_visibility": "public", "preprocess": False, "postprocess": False}


def client_functions(engine: Engine, decoder: Decoder) -> dict[str, Function]:
    """Build the functions by name: `classify_digit`, `classify_picture`, `classify_image`, `compare` and `models`.

    Their arguments and results are JSON. All raise ApiError.
    """

    async def classify_digit(image: Upload | None, model: str = "") -> dict[str, Any]:
        """Read the digit in a drawing or photo. `model` is a name from /models; empty: the most accurate one.

        Returns the model, its predictions (label, index, probability; best first), and `problem`: null, or why there is
        no prediction or an unsure one (blank, dot, several, scribble).
        """
        prepared, prediction = await _classified(engine, decoder, image, "digit", model)
        if prediction is None:
            return {"model": None, "predictions": [], "problem": prepared.problem}
        return {**_json(prediction), "problem": prepared.problem}

    async def classify_picture(image: Upload | None, model: str = "") -> dict[str, Any]:
        """Name the CIFAR-10 class of a picture's centre square. `model` is as in /classify_digit."""
        return _json((await _classified(engine, decoder, image, "picture", model))[1])

    async def classify_image(image: Upload | None, model: str = "") -> dict[str, Any]:
        """Classify an image's centre square with any other model. `model` is as in /classify_digit."""
        return _json((await _classified(engine, decoder, image, "image", model))[1])

    async def compare(image: Upload | None, dataset: str = "cifar10") -> list[dict[str, Any]]:
        """Run every ready model of `dataset` (mnist, cifar10 or one of your own) on one picture.

        Each result has its milliseconds.
        """
        models = _of_dataset(engine, str(dataset))
        given = _given(image)
        results = []
        for model in models:
            prepared = await prepare(decoder, given, model)
            if prepared.pixels is None:
                raise BadImage(400, "there is no digit in the picture")
            results.append(await predict(engine, model.name, prepared.pixels))
        return [{**_json(result), "milliseconds": round(1e3 * result.seconds, 2)} for result in results]

    async def models() -> list[str]:
        """List the names of the ready models: per dataset, the most accurate first."""
        return [model.name for kind in KINDS for model in ready_models(engine, kind)]

    functions: list[Function] = [classify_digit, classify_picture, classify_image, compare, models]
    return {function.__name__: function for function in functions}


def add_client_api(functions: Mapping[str, Function]) -> None:
    """Add the functions to the page, for gradio_client: each argument is a component with its name."""
    with gr.Column(visible=False):
        components: dict[str, Any] = {
            "image": image_input("image", "api-image"),
            "model": gr.Textbox("", label="model"),
            "dataset": gr.Textbox("cifar10", label="dataset"),
        }
        result = gr.JSON(label="answer")
        for name, function in functions.items():
            inputs = [components[argument] for argument in signature(function).parameters]
            gr.Button().click(_refusing(function), inputs, result, api_name=name, **EVENT)


def _refusing(function: Function) -> Function:
    """Turn the server's errors into Gradio's, which reach the client."""

    @wraps(function)
    async def call(*arguments: Any) -> Any:
        try:
            return await function(*arguments)
        except ApiError as error:
            raise refusal(error.message, error.status) from error

    return call


async def _classified(
    engine: Engine, decoder: Decoder, image: Upload | None, kind: Kind, name: str
) -> tuple[Prepared, Prediction | None]:
    model = engine.repository.get(str(name)).info if name else chosen_model(engine, kind, None)
    if kind_of(model.name) != kind:
        raise BadRequest(f"{model.name} does not classify {kind}s; /classify_{kind_of(model.name)} uses it")
    prepared = await prepare(decoder, _given(image), model)
    if prepared.pixels is None:
        return prepared, None
    return prepared, await predict(engine, model.name, prepared.pixels)


def _of_dataset(engine: Engine, name: str) -> list[ModelInfo]:
    found = [model for kind in KINDS for model in ready_models(engine, kind)]
    names = sorted({dataset_of(model.name) for model in found} | set(DATASETS))
    if name not in names:
        raise BadRequest(f"unknown dataset {name!r}; valid are {', '.join(names)}")
    return [model for model in found if dataset_of(model.name) == name]


def _given(image: Upload | None) -> Given:
    if image is None:
        raise BadImage(400, "no picture was given")
    path = image.get("path") if isinstance(image, dict) else None
    path = uploaded(path if isinstance(path, str) else None)
    return Given(photo=path, picture=path, image=path, source="photo")


def _json(prediction: Prediction | None) -> dict[str, Any]:
    assert prediction is not None
    return {"model": prediction.model, "predictions": predictions(prediction.labels, prediction.probabilities)}
