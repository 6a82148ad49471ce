"""Prepare the ink of a digit: the 28x28 image that an MNIST model expects. `photos.py` finds the ink in an image.

MNIST's own recipe: the box around the ink is scaled to 20 pixels on its longest side with antialiasing, then placed in
28x28 so that its centre of mass is in the middle. Here the stroke is first thinned to its centre line and redrawn with
one width, because a 40 px brush on a small digit would otherwise give strokes unlike any in MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from serve.images.filters import blur
from serve.images.ink import resize
from serve.images.regions import depth, regions
from serve.images.sheet import Sheet
from serve.images.thinning import thin

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Problem = Literal["blank", "dot", "cut", "several", "scribble"]

# MNIST's own recipe
SIDE = 28  # side of the prepared image, pixels
BOX = 20.0  # longest side of the box around the ink, pixels

# All values below were chosen on the train split of benchmarks/drawn_digits.py.
STROKE = 3.0  # width of the redrawn stroke, pixels of the prepared image
EDGE = 1.3  # distance over which a redrawn stroke fades from full ink to none, pixels of the prepared image

SMALLEST = 0.045  # of a photo's longest side; smaller ink is dirt
WIDE = 3.0  # times its height: wider ink is a piece of a line, or a row of digits
SPECK = 0.06  # a part with less than this share of the largest part's area is dropped
SPECK_ON_PAPER = 0.12  # the same for photos
INNER = 0.1  # parts that touch a photo's border are dropped if another has this share of the largest part's area
DIGIT_AREA = 0.2  # a part may be a digit of its own from this share of the largest part's area on ...
DIGIT_HEIGHT = 0.45  # ... and this share of the tallest part's height
GAP = 0.04  # two such parts are two digits if the columns between them are at least this share of that height

THIN = 96  # longest side of the ink's box when it is thinned, pixels
SMOOTH = 1.2  # standard deviation of the blur before thinning, pixels at that scale
BLOB = 1.25  # ink deeper than this multiple of the stroke's half width is a blob
DOT = 0.6  # ink whose thickness is more than this share of its length is a dot

# No digit has more than this: anything with more is a scribble.
MOST_INK = 200.0  # sum of the prepared image, in pixels of full ink
MOST_HOLES = 2
SMALLEST_HOLE = 8  # pixels at the scale of THIN
# More than this is two digits that touch: it holds for 68 % of touching pairs of MNIST training digits, and for one in
# 1,000 drawings and photos of a single one.
CROWDED = 4.5
ODD = 4.75  # without a column that crosses one stroke alone, more than this is a face or the like; a wide 0 has less


@dataclass(frozen=True, eq=False)
class Digit:
    """A prepared digit.

    Attributes:
        pixels: uint8 [28, 28, 1], white ink on black; None if there is no ink to classify.
        problem: why it may not be one digit.
        sheet: where the sheet of paper lies in a photo that shows more than it.
    """

    pixels: npt.NDArray[np.uint8] | None
    problem: Problem | None = None
    sheet: Sheet | None = None


def judge(ink: Floats, keep: Mask, several: bool) -> Digit:
    """Prepare the digit whose ink, float32 [H, W], is where bool [H, W] says."""
    if not keep.any():
        return Digit(None, "blank")
    mask = _close_up(np.where(keep, ink, np.float32(0)))
    line, thickest = centre_line(mask)
    if thickest > DOT:
        return Digit(None, "dot")
    return verdict(redraw(line), mask, several=several)


def verdict(pixels: npt.NDArray[np.uint8], mask: Mask, *, several: bool) -> Digit:
    """Judge whether a prepared image shows one digit; `mask` is its ink, whose longest side is THIN."""
    if several:
        return Digit(pixels, "several")
    holes = int((regions(~mask).areas > SMALLEST_HOLE).sum()) - 1  # one is the margin around the digit
    if pixels.sum() / 255 > MOST_INK or holes > MOST_HOLES:
        return Digit(pixels, "scribble")
    crowding = _crowding(pixels)
    if _has_waist(pixels):
        return Digit(pixels, "several" if crowding > CROWDED else None)
    return Digit(pixels, "scribble" if crowding > ODD else None)


def main_ink(mask: Mask, square: Mask | None = None, *, on_paper: bool) -> tuple[Mask, bool]:
    """Select the connected parts of bool [H, W] that belong to the digit.

    Specks are dropped. In a photo, parts that touch the border are dropped too, such as a table's edge or a ruled line.
    With `square`, bool [H, W], a part counts if at least half of it is inside, or if nothing else is.

    Returns:
        The selected ink, bool [H, W], and whether there are several digits side by side.
    """
    parts = regions(mask)
    if not len(parts):
        return np.zeros_like(mask), False
    areas, top, bottom, left, right = parts.areas, parts.top, parts.bottom, parts.left, parts.right
    chosen = np.ones(len(parts), bool)
    if square is not None:
        within = np.bincount(parts.labels[square], minlength=len(parts) + 1)[1:]
        chosen = within >= areas / 2
        if areas[chosen].max(initial=0) < SPECK_ON_PAPER * within.max():
            chosen = within == within.max()
        if not within.any():
            return np.zeros_like(mask), False
    if on_paper:
        inner = chosen & (top > 0) & (left > 0) & (bottom < mask.shape[0]) & (right < mask.shape[1])
        if areas[inner].max(initial=0) >= INNER * areas[chosen].max():
            chosen = inner
    largest = areas[chosen].max()
    sizes = np.maximum(bottom - top, right - left)
    if on_paper and sizes[chosen].max() < SMALLEST * max(mask.shape):
        return np.zeros_like(mask), False
    chosen &= areas >= (SPECK_ON_PAPER if on_paper else SPECK) * largest
    heights = bottom - top
    tall = heights[chosen].max()
    digits = np.flatnonzero(chosen & (areas >= DIGIT_AREA * largest) & (heights >= DIGIT_HEIGHT * tall))
    digits = digits[np.argsort(left[digits], kind="stable")]
    gaps = left[digits[1:]] - right[digits[:-1]]
    several = bool((gaps >= GAP * tall).any())
    wide = right[chosen].max() - left[chosen].min() > WIDE * (bottom[chosen].max() - top[chosen].min())
    if on_paper and wide and not (several and tall >= SMALLEST * max(mask.shape)):
        return np.zeros_like(mask), False
    return parts.only(chosen), several


def _close_up(ink: Floats) -> Mask:
    """Crop float32 [H, W] to its ink, scale the longest side to THIN pixels and add a margin: bool [h, w]."""
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = THIN / max(box.shape)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    padded = np.pad(resize(np.ascontiguousarray(box), size), 4)
    # Thinning turns a ragged edge into short side branches: smooth it first.
    mask = blur(padded, SMOOTH) > 0.5
    return mask if mask.any() else padded >= padded.max()


def centre_line(mask: Mask) -> tuple[Floats, float]:
    """Find the centre line of bool [H, W] ink whose longest side is THIN.

    Where the ink is thicker than its stroke, as in a loop that a thick brush has filled, the points fill that blob: it
    is all that is left of the loop.

    Returns:
        float32 [n, 2], points (y, x) in pixels, and the largest thickness of the ink as a share of THIN.
    """
    line = thin(mask)
    deep = depth(mask)
    if not line.any():  # Zhang and Suen's rule removes a 2x2 square completely
        line = deep == deep.max()
    half = float(np.median(deep[line]))
    return np.argwhere(line | (deep > BLOB * half)).astype(np.float32), 2 * float(deep.max()) / THIN


def redraw(line: Floats) -> npt.NDArray[np.uint8]:
    """Draw the points `line` (float32 [n, 2], y and x at any scale) in the style of MNIST: uint8 [28, 28, 1]."""
    low, high = line.min(axis=0), line.max(axis=0)
    scale = (BOX - STROKE) / max(float((high - low).max()), 1e-3)
    points = (line - (low + high) / 2) * scale + SIDE / 2
    # MNIST centres the ink's centre of mass, not its box. A second pass corrects the remaining fraction of a pixel.
    for _ in range(2):
        ink = _stroke(points)
        points = points + np.float32(SIDE / 2 - 0.5) - _centre_of_mass(ink)
    return np.round(_stroke(points) * 255).astype(np.uint8)[..., None]


def _crowding(pixels: npt.NDArray[np.uint8]) -> float:
    """Measure how likely it is that a prepared digit is two that touch: the sum of three signs.

    They are the width over the height (a 2 may be wide), the mean number of strokes that a row crosses (a 0 has two)
    and the ink in units of 100 pixels (an 8 has much). None is enough alone; each differs by about the same amount
    between one digit and two.
    """
    ink = pixels[..., 0] > 100
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    begins = ink & ~np.pad(ink, ((0, 0), (1, 0)))[:, :-1]
    return float(width / height + begins.sum() / len(rows) + pixels.sum() / 255 / 100)


def _has_waist(pixels: npt.NDArray[np.uint8]) -> bool:
    """Tell two digits that touch from a heart or a face: a column near the middle crosses one stroke alone."""
    ink = pixels[..., 0] > 100
    columns = np.flatnonzero(ink.any(axis=0))
    middle = ink[:, columns[0] + round(0.3 * len(columns)) : columns[0] + round(0.7 * len(columns))]
    begins = middle & ~np.pad(middle, ((1, 0), (0, 0)))[:-1]
    return bool((begins.sum(axis=0) <= 1).any())


def _stroke(points: Floats) -> Floats:
    """Draw a round brush along `points` from each pixel's distance to the nearest one: float32 [28, 28], 0 to 1."""
    y, x = np.mgrid[0.5:SIDE, 0.5:SIDE].astype(np.float32)
    distance = np.full((SIDE, SIDE), np.inf, np.float32)
    for chunk in np.array_split(points, max(1, len(points) // 64)):
        squared = (y[..., None] - chunk[:, 0]) ** 2 + (x[..., None] - chunk[:, 1]) ** 2
        distance = np.minimum(distance, squared.min(axis=-1))
    return np.clip((STROKE / 2 - np.sqrt(distance)) / EDGE + 0.5, 0, 1).astype(np.float32)


def _centre_of_mass(ink: Floats) -> Floats:
    """Find the centre of mass of float32 [H, W]: float32 [2], y and x in pixels from the middle of the first one."""
    y, x = (np.arange(length, dtype=np.float64) for length in ink.shape)
    return np.array([(ink * y[:, None]).sum() / ink.sum(), (ink * x).sum() / ink.sum()], np.float32)
