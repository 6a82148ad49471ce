"""What MNIST-C does to digits of 28x28 pixels, beyond what is done to all images."""

import math
from itertools import pairwise

import numpy as np
from scipy import ndimage

from train.shifts.corruptions import filters
from train.shifts.corruptions.filters import Image

SIDE = 28


def _warped(image: Image, matrix: np.ndarray) -> Image:
    """Warp a digit around its centre; `matrix` takes (x, y) of the result to (x, y) of the image."""
    centre = (SIDE - 1) / 2
    swapped = matrix[::-1, ::-1]  # scipy counts rows first
    offset = centre - swapped @ np.array([centre, centre])
    flat = ndimage.affine_transform(image[:, :, 0], swapped, offset, order=1, mode="grid-constant")
    return np.asarray(flat)[:, :, None]


def _either(rng: np.random.Generator, count: int | None = None) -> np.ndarray | int:
    """Draw -1 or 1."""
    return rng.choice([-1, 1], count)


def shear(image: Image, rng: np.random.Generator, angle: float) -> Image:
    """Slant a digit by an angle in radians, to the left or to the right."""
    angle = angle * float(_either(rng))
    return _warped(image, np.array([[1, -math.sin(angle)], [0, math.cos(angle)]]))


def rotate(image: Image, rng: np.random.Generator, angle: float) -> Image:
    """Turn a digit by an angle in radians, to the left or to the right."""
    angle = angle * float(_either(rng))
    return _warped(image, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))


def scale(image: Image, _rng: np.random.Generator, factor: float) -> Image:
    """Reduce a digit to a share of its size."""
    return _warped(image, np.eye(2) / factor)


def translate(image: Image, rng: np.random.Generator, pixels: int) -> Image:
    """Move a digit by whole pixels, along both axes."""
    dx, dy = (pixels * int(sign) for sign in np.atleast_1d(_either(rng, 2)))
    return np.asarray(ndimage.shift(image, (-dy, -dx, 0), order=0, mode="constant"))


def stripe(image: Image, _rng: np.random.Generator) -> Image:
    """Invert the left and the right quarter."""
    result = image.copy()
    for quarter in (slice(0, 7), slice(21, None)):
        result[:, quarter] = 1 - result[:, quarter]
    return result


def _line(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Draw a soft line from left to right, float [28, 28]."""
    if x0 == x1:
        return np.zeros((SIDE, SIDE))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.abs(rows - ((y1 - y0) / (x1 - x0) * (columns - x0) + y0)).clip(0, 2.3 - 1e-10)
    line = (np.log(1 - distance / 2.3) + 1).clip(0, 1)
    line[:, : max(0, math.floor(x0))] = 0
    line[:, max(0, math.ceil(x1)) :] = 0
    return np.asarray(line)


def dotted_line(image: Image, rng: np.random.Generator) -> Image:
    """Draw a dotted line across a digit."""
    line = _line(0, float(rng.integers(0, 27)), 27, float(rng.integers(0, 27)))
    line[:, np.arange(SIDE) % 4 < 2] = 0
    return np.asarray(image + line[:, :, None])


def zigzag(image: Image, rng: np.random.Generator) -> Image:
    """Draw a zigzag line across a digit."""
    length = width = 2.0
    x0, x1 = 2, 25
    y0 = float(rng.integers(0, 27))
    y1 = y0 + float(rng.integers(-5, 5))
    angle = math.atan((y1 - y0) / (x1 - x0))
    whole = (x1 - x0) / math.cos(angle)
    turns = int((whole - length) // (2 * length)) + 1
    points = [(0.0, 0.0), *(((2 * i + 1) * length, (-1) ** i * width) for i in range(turns))]
    rest = whole - 2 * length * (whole // (2 * length))
    if rest:
        points.append((whole, points[-1][1] / (2 * rest)))
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [(cos * x - sin * y + x0, sin * x + cos * y + y0) for x, y in points]
    result = image.copy()
    for (left, first), (right, second) in pairwise(turned):
        result = (result + _line(left, first, right, second)[:, :, None]).clip(0, 1)
    return result


def canny_edges(image: Image, _rng: np.random.Generator) -> Image:
    """Keep the edges of a digit alone."""
    smooth = ndimage.gaussian_filter(image[:, :, 0], 1, mode="constant", truncate=4)
    return filters.edges(smooth, 0.1, 0.2).astype(float)[:, :, None]
