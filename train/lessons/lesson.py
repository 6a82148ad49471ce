"""A lesson's length and its images.

`ZOO_LESSON=short` makes a notebook run in seconds, to see that it runs: few images and few epochs, whose results mean
nothing.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from train.data import loading
from train.errors import UserError
from train.onnx_export.build import SAMPLES

VARIABLE = "ZOO_LESSON"
FORMS = ("full", "short")
Value = TypeVar("Value")


class LessonError(UserError):
    """A lesson that is asked for in an unknown form."""


def is_short() -> bool:
    """Tell whether the lesson is to run in its short form.

    Raises:
        LessonError: the environment variable asks for neither form.
    """
    form = os.environ.get(VARIABLE) or "full"
    if form not in FORMS:
        raise LessonError(f"{VARIABLE}={form}: valid are {', '.join(FORMS)}")
    return form == "short"


def choose(full: Value, *, short: Value) -> Value:
    """Return the value for the form in which the lesson runs.

    Args:
        full: for somebody who learns from it.
        short: for a test.

    Raises:
        LessonError: see `is_short`.
    """
    return short if is_short() else full


def folder() -> Path:
    """Return the folder of the datasets: that of `ZOO_DATA_DIR`, or else the samples that ship with the project."""
    return Path(os.environ.get("ZOO_DATA_DIR") or SAMPLES)


def load(dataset: str, most: int | None = None) -> loading.Dataset:
    """Load a dataset of `folder`.

    Args:
        dataset: "mnist" or "cifar10".
        most: images of each split; more are left out, at even distances. None keeps all.

    Raises:
        DataError: the folder has no such dataset.
    """
    found = loading.load(dataset, folder())
    if most is None:
        return found
    train, validation, test = (split.spread(most) for split in (found.train, found.validation, found.test))
    return replace(found, train=train, validation=validation, test=test)
