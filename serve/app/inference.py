"""The app's requests to the engine: which models are ready, and what they predict for an image."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.engine.batching import Engine
from serve.engine.models import ModelInfo, Scores
from serve.engine.queues import ranked
from serve.errors import ApiError

Pixels = npt.NDArray[np.uint8]

SURE = 0.75  # with a lower probability the best class counts as a guess


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        model: the model's name.
        labels: the names of its classes.
        probabilities: float32 [classes].
        seconds: time from request to result.
    """

    model: str
    labels: list[str]
    probabilities: Scores
    seconds: float

    @property
    def order(self) -> list[int]:
        """Class indices, best first."""
        return ranked(self.probabilities)

    @property
    def best(self) -> int:
        """The index of the most probable class."""
        return self.order[0]

    @property
    def sure(self) -> bool:
        """Whether the best class is more than a guess."""
        return float(self.probabilities[self.best]) >= SURE


def ready_models(engine: Engine, dataset: str) -> list[ModelInfo]:
    """List the ready models of `dataset` (mnist or cifar10), most accurate first."""
    found = [info for info in engine.models().values() if info.name.endswith(f".{dataset}")]
    return sorted(found, key=lambda info: (-(info.accuracy or 0), info.name))


def best_model(engine: Engine, dataset: str) -> str:
    """Choose the most accurate ready model of `dataset`. Raises ApiError if none is ready."""
    models = ready_models(engine, dataset)
    if not models:
        raise ApiError(503, f"no model for {'digits' if dataset == 'mnist' else 'pictures'} is ready")
    return models[0].name


async def predict(engine: Engine, model: str, pixels: Pixels) -> Prediction:
    """Run `model` on uint8 [H, W, C] of its input size. Raises ApiError, as the engine does."""
    start = time.perf_counter()
    result = await engine.infer(model, pixels[None])
    return Prediction(model, result.model.labels, result.probabilities[0], time.perf_counter() - start)


async def predict_all(engine: Engine, dataset: str, pixels: Pixels) -> list[Prediction]:
    """Run all ready models of `dataset`, one after another: no model's time includes another's."""
    return [await predict(engine, model.name, pixels) for model in ready_models(engine, dataset)]
