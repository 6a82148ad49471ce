"""The pixels of a prepared digit, and how far two of them are apart."""

import numpy as np

from serve.images.digits import SIDE, Digit


def pixels_of(digit: Digit) -> np.ndarray:
    assert digit.problem is None
    assert digit.pixels is not None
    assert digit.pixels.shape == (SIDE, SIDE, 1)
    assert digit.pixels.dtype == np.uint8
    return digit.pixels[..., 0].astype(float)


def difference(one: Digit, two: Digit) -> float:
    """Mean difference of the pixels as a share of the mean ink; a shift by one pixel makes it more than 0.5."""
    a, b = pixels_of(one), pixels_of(two)
    return float(np.abs(a - b).sum() / (a.sum() + b.sum()))
