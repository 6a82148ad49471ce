"""The app's requests to the engine: which models are ready, and what they predict for an image."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from serve.app.verdict import Verdict, verdict
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo, Scores, find
from serve.engine.queues import Result, ranked
from serve.errors import NotReady

Pixels = npt.NDArray[np.uint8]
# What the app classifies. Each kind has models and a tab of its own: digits those of MNIST, pictures those of CIFAR-10,
# and images all others.
Kind = Literal["digit", "picture", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DATASETS: dict[str, Kind] = {"mnist": "digit", "cifar10": "picture"}


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        model: the model's name.
        labels: the names of its classes.
        probabilities: float32 [classes].
        seconds: time from request to result.
        abstain_below: the top probability below which the model abstains; None: not known.
        familiar: whether the image is like those of the model's classes; None: not known.
    """

    model: str
    labels: list[str]
    probabilities: Scores
    seconds: float
    abstain_below: float | None = None
    familiar: bool | None = None

    @property
    def order(self) -> list[int]:
        """Class indices, best first."""
        return ranked(self.probabilities)

    @property
    def best(self) -> int:
        """The index of the most probable class."""
        return self.order[0]

    def verdict(self, *, fits: bool = True) -> Verdict:
        """What the model says of the image; `fits` is as in `verdict`."""
        return verdict(self.probabilities, self.abstain_below, fits=fits, familiar=self.familiar)


def dataset_of(model: str) -> str:
    """Return the dataset's tag in a model's name: "pets" for `vanilla_resnet18.pets`, empty without one."""
    return model.partition(".")[2]


def kind_of(model: str) -> Kind:
    """Return the kind of images that a model classifies, which its name tells."""
    return DATASETS.get(dataset_of(model), "image")


def kinds(models: Iterable[str]) -> list[Kind]:
    """List the kinds that models with these names classify, in the order of the tabs; without models, the paper's."""
    found = {kind_of(name) for name in models} or set(DATASETS.values())
    return [kind for kind in KINDS if kind in found]


def offered_kinds(engine: Engine) -> list[Kind]:
    """List the kinds that the app offers: those of the ready models or, while models load, of all in the folder."""
    ready = engine.models()
    if engine.repository.settled.is_set():
        return kinds(ready)
    return kinds([*ready, *engine.repository.missing()] or find(engine.settings.models))


def ready_models(engine: Engine, kind: Kind) -> list[ModelInfo]:
    """List the ready models of a kind: by dataset, the most accurate first."""
    found = [info for info in engine.models().values() if kind_of(info.name) == kind]
    return sorted(found, key=lambda info: (dataset_of(info.name), -(info.accuracy or 0), info.name))


def chosen_model(engine: Engine, kind: Kind, name: str | None) -> ModelInfo:
    """Return the ready model `name`; if there is none of this kind, the best.

    A page that stays open while the server starts again, or that another server answers, may name any model.

    Raises:
        NotReady: no model of this kind is ready.
    """
    models = ready_models(engine, kind)
    if not models:
        raise NotReady(f"no model for {kind}s is ready")
    return next((info for info in models if info.name == name), models[0])


def alike(engine: Engine, model: ModelInfo) -> list[ModelInfo]:
    """List the ready models that tell the same classes apart as `model`, most accurate first."""
    found = [info for info in ready_models(engine, kind_of(model.name)) if info.labels == model.labels]
    return sorted(found, key=lambda info: (-(info.accuracy or 0), info.name))


def of_first(result: Result, seconds: float) -> Prediction:
    """Make the prediction of a result's first image, which took so many seconds."""
    info, familiar = result.model, result.familiar
    near = None if familiar is None else bool(familiar[0])
    return Prediction(info.name, info.labels, result.probabilities[0], seconds, info.abstain_below, near)


async def predict(engine: Engine, model: str, pixels: Pixels) -> Prediction:
    """Run `model` on uint8 [H, W, C] of its input size. Raises ApiError, as the engine does."""
    start = time.perf_counter()
    result = await engine.infer(model, pixels[None])
    seconds = time.perf_counter() - start
    return of_first(result, seconds)
