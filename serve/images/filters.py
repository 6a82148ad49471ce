"""Filters of greyscale images, in NumPy: blur, running maximum, closing.

SciPy has them too, at the price of 143 MB in the server's environment for these few functions. The tests compare all of
them with SciPy's. Outside the image all filters repeat its edge, SciPy's mode `nearest`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def blur(values: Floats, sigma: float) -> Floats:
    """Apply a Gaussian blur of standard deviation `sigma`, in pixels and cut off at three times that, to [H, W]."""
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(reach + 1) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    for axis in (0, 1):
        length = values.shape[axis]
        padded = _pad(values, reach, axis).astype(np.float64)
        total = weights[0] * _part(padded, reach, length, axis)
        for k in range(reach, 0, -1):
            pair = _part(padded, reach - k, length, axis) + _part(padded, reach + k, length, axis)
            total += weights[k] * pair
        values = total.astype(np.float32)
    return values


def dilate(mask: Mask, window: int) -> Mask:
    """Spread bool [H, W] over a square window of odd side `window`, pixels."""
    return _running(mask, (window, window), np.logical_or)


def highest(values: Floats, window: tuple[int, int]) -> Floats:
    """Take the maximum of float32 [H, W] in a `window` of odd height and width around each pixel."""
    return _running(values, window, np.maximum)


def close(values: Floats, window: tuple[int, int]) -> Floats:
    """Close float32 [H, W]: fill what is darker and smaller than the `window` of odd height and width, pixels."""
    return _running(highest(values, window), window, np.minimum)


def open_(values: Floats, window: tuple[int, int]) -> Floats:
    """Open float32 [H, W]: level what is lighter and smaller than the `window` of odd height and width, pixels."""
    return highest(_running(values, window, np.minimum), window)


def _running(values: Array, window: tuple[int, int], better: Callable[..., Any]) -> Array:
    """Combine the values of a window around each pixel of [H, W] with `better`, such as `np.maximum`."""
    for axis, side in enumerate(window):
        length = values.shape[axis]
        values = _pad(values, side // 2, axis)
        # Windows of 1, 2, 4, ... pixels; two of them that overlap make up the whole one.
        span = 1
        while 2 * span <= side:
            rest = values.shape[axis] - span
            values = better(_part(values, 0, rest, axis), _part(values, span, rest, axis))
            span *= 2
        if span < side:
            values = better(_part(values, 0, length, axis), _part(values, side - span, length, axis))
    return values


def _pad(values: Array, by: int, axis: int) -> Array:
    return np.pad(values, [(by, by) if axis == 0 else (0, 0), (by, by) if axis == 1 else (0, 0)], mode="edge")


def _part(values: Array, start: int, length: int, axis: int) -> Array:
    return values[start : start + length] if axis == 0 else values[:, start : start + length]
