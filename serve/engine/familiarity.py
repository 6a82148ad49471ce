"""Which logits a model gives for images of its classes: others are of none of them, however high their probability."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

FIELDS = ("means", "deviations", "unknown_above")


class Familiarity:
    """Tells whether logits are near those that the validation images of a class have.

    The distance to a class is the sum over all logits of ((logit - mean) / deviation)^2 + 2 log(deviation).

    Args:
        means: float [classes, classes]: row c has the mean logits of what the model takes for class c.
        deviations: of the same shape, above 0: their standard deviations.
        unknown_above: an image is unfamiliar if its distance to the nearest class is larger.
    """

    def __init__(
        self, means: npt.NDArray[np.float64], deviations: npt.NDArray[np.float64], unknown_above: float
    ) -> None:
        weights = deviations**-2
        # The squares multiplied out: two products of matrices, for any number of images and classes.
        self._squares = weights.T
        self._linear = (-2 * means * weights).T
        self._constant = (means**2 * weights + 2 * np.log(deviations)).sum(axis=1)
        self._unknown_above = unknown_above

    def familiar(self, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        """Tell of each image whether its logits, float [n, classes], are near those of a class: bool [n].

        Logits that are no numbers, or too large to compute with, are not.
        """
        values = logits.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distances = values**2 @ self._squares + values @ self._linear + self._constant
        near: npt.NDArray[np.bool_] = distances.min(axis=1) <= self._unknown_above
        return near


def parse(text: str, classes: int) -> Familiarity:
    """Read what an ONNX file's metadata state as `familiarity`, for so many classes.

    Raises:
        ValueError: it is no JSON object with the fields, or has numbers that cannot be; the message says which.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not set(FIELDS) <= found.keys():
        raise ValueError(f"it is {text!r:.80}; valid is an object with {', '.join(FIELDS)}")
    arrays = []
    for name in FIELDS[:2]:
        try:
            array = np.array(found[name], np.float64)
        except (ValueError, TypeError):
            raise ValueError(f"its {name} are {found[name]!r:.80}; valid are numbers") from None
        if array.shape != (classes, classes):
            raise ValueError(f"its {name} have the shape {array.shape}; valid is {(classes, classes)}")
        if not np.isfinite(array).all():
            raise ValueError(f"its {name} are not all finite")
        arrays.append(array)
    means, deviations = arrays
    if not (deviations > 0).all():
        raise ValueError(f"its deviations have {deviations.min():g}; valid is above 0")
    limit = found["unknown_above"]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not np.isfinite(limit):
        raise ValueError(f"its unknown_above is {limit!r:.80}; valid is a number")
    return Familiarity(means, deviations, float(limit))
