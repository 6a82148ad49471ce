"""From a drawing or a photo of a digit to the 28x28 picture that an MNIST model knows.

MNIST's own recipe: the ink's box is scaled to 20 pixels on its longest side with antialiasing, then placed in 28x28
with its centre of mass in the middle. Here the stroke is first thinned to its centre line and drawn again with one even
width, because a 40 px brush on a small digit would otherwise give strokes that no digit of MNIST has.

Nothing is assumed about the input: dark ink on light, light on dark, or a transparent canvas; any size; a flat canvas
or a photo of paper with shadows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.drawing_shape import components, thin

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Problem = Literal["blank", "dot", "several", "scribble"]

SIDE = 28  # the dataset's picture
BOX = 20.0  # longest side of the ink in it, pixels
STROKE = 2.6  # width of the redrawn stroke, pixels of the 28x28 picture
EDGE = 1.3  # over how many pixels a redrawn stroke fades from full ink to none
WORK = 400  # longest side at which ink is looked for, pixels
THIN = 96  # longest side of the ink's box when it is thinned, pixels
MOST_INK = 230.0  # more full pixels than this, at an even stroke, and it is a scribble


@dataclass(frozen=True, eq=False)
class Digit:
    """A prepared digit. `pixels` is uint8 [28, 28, 1], white ink on black; None where there is no ink to classify."""

    pixels: npt.NDArray[np.uint8] | None
    problem: Problem | None = None


def prepare(image: Image.Image) -> Digit:
    """The MNIST picture of the one digit in `image` (any mode and size), or what is wrong with it.

    `blank` and `dot` come without pixels; `several` (digits side by side) and `scribble` come with them, for a caller
    that still wants the guess.
    """
    grey = _greyscale(image)
    if max(grey.shape) <= SIDE:
        return _as_it_is(grey)
    flat, ink = find_ink(grey)
    keep, several = _main_ink(ink > 0.5, on_paper=not flat)
    if not keep.any():
        return Digit(None, "blank")
    line, width = centre_line(np.where(keep, ink, np.float32(0)))
    extent = float(np.ptp(line, axis=0).max())
    if extent < 0.6 * width:
        return Digit(None, "dot")
    pixels = redraw(line)
    if several:
        return Digit(pixels, "several")
    return Digit(pixels, "scribble" if pixels.sum() / 255 > MOST_INK else None)


def _greyscale(image: Image.Image) -> Floats:
    """float32 [H, W], 0 to 255, longest side at most WORK. A transparent canvas becomes its strokes on plain paper."""
    if image.mode in ("I;16", "I", "F"):
        wide = np.asarray(image, dtype=np.float32)
        span = float(np.ptp(wide)) or 1.0
        image = Image.fromarray(((wide - wide.min()) * (255 / span)).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        grey = rgba.convert("L")
        opaque = np.asarray(alpha) > 127
        # Strokes may be of any colour, black included, and so may the paper: choose the paper that shows them.
        tone = float(np.median(np.asarray(grey)[opaque])) if opaque.any() else 0.0
        image = Image.composite(grey, Image.new("L", grey.size, 0 if tone > 127 else 255), alpha)
    grey = image.convert("L")
    scale = WORK / max(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def _as_it_is(grey: Floats) -> Digit:
    """A picture no larger than the dataset's own is taken as prepared: redrawing it would only lose detail."""
    light = float(np.median(_frame(grey))) > 127
    ink = 255 - grey if light else grey
    if ink.max() < 64:
        return Digit(None, "blank")
    pixels = np.zeros((SIDE, SIDE, 1), np.uint8)
    height, width = ink.shape
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels[top : top + height, left : left + width, 0] = ink
    return Digit(pixels)


def _frame(grey: Floats, share: float = 0.04) -> Floats:
    edge = max(1, round(min(grey.shape) * share))
    return np.concatenate([grey[:edge].ravel(), grey[-edge:].ravel(), grey[:, :edge].ravel(), grey[:, -edge:].ravel()])


def find_ink(grey: Floats) -> tuple[bool, Floats]:
    """Whether the background is flat, and how much ink each pixel holds, float32 [H, W] from 0 to 1."""
    frame = _frame(grey)
    level = float(np.median(frame))
    flat = float(np.mean(np.abs(frame - level) <= 3)) > 0.8
    contrast = np.abs(grey - level) / 255 if flat else _contrast_on_paper(grey)
    threshold, inked, plain, noise = _otsu(contrast)
    share = float(np.mean(contrast > threshold))
    if inked - plain < max(0.07, 4 * noise) or not 0.0003 < share < 0.6:
        return flat, np.zeros_like(grey)
    return flat, np.clip((contrast - threshold) / (inked - plain) + 0.5, 0, 1).astype(np.float32)


def _contrast_on_paper(grey: Floats) -> Floats:
    """How far each pixel stands out from the paper around it, as a share of the paper's own brightness.

    Light multiplies: in a shadow paper and ink darken by one factor, so the ratio to the local paper is free of it.
    """
    height, width = grey.shape
    small_size = (max(8, round(width * 100 / max(grey.shape))), max(8, round(height * 100 / max(grey.shape))))
    small = _resize(grey, small_size)
    paper = surface = _surface(small)
    difference = small - surface
    dark = -np.percentile(difference, 1) > np.percentile(difference, 99)
    for _ in range(3):
        ink = np.maximum(paper - small if dark else small - paper, 0)
        threshold, *_rest = _otsu(ink)
        # The widest filter first marks the ink's soft edges as ink too, else they pull the paper's estimate down.
        inked = Image.fromarray(((ink > 0.7 * threshold) * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
        weight = np.where(np.asarray(inked) > 0, np.float32(1e-3), np.float32(1))
        # What is blurred is the rest above the surface: at the picture's edge a blurred slope would be flattened.
        paper = surface + _blur(weight * difference, 5.0) / _blur(weight, 5.0)
    full = _resize(paper, (width, height))
    # Near black (or near white, for light ink) a ratio would be one of noise to noise.
    contrast = (full - grey) / np.maximum(full, 24) if dark else (grey - full) / np.maximum(255 - full, 24)
    return _blur(np.clip(contrast, 0, 1).astype(np.float32), max(grey.shape) / 500)


def _surface(grey: Floats) -> Floats:
    """The smooth (quadratic) brightness of the paper, fitted with what stands out from it left out."""
    height, width = grey.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = grey.ravel().astype(np.float64)
    kept = np.ones(values.size, bool)
    fitted = values
    for _ in range(5):
        weights, *_ = np.linalg.lstsq(terms[kept], values[kept], rcond=None)
        fitted = terms @ weights
        off = np.abs(values - fitted)
        kept = off <= 1.5 * np.median(off) + 2
    return fitted.reshape(height, width).astype(np.float32)


def _otsu(values: Floats) -> tuple[float, float, float, float]:
    """Otsu's threshold of `values` in [0, 1] or [0, 255], the mean above and below it, and the spread below it."""
    top = max(float(values.max()), 1e-6)
    counts, edges = np.histogram(values, bins=128, range=(0.0, top))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    low = sums / np.maximum(below, 1)
    high = (sums[-1] - sums) / np.maximum(above, 1)
    # Between two separate heaps every threshold is equally good: take the middle one.
    between = below * above * (high - low) ** 2
    best = round(float(np.mean(np.flatnonzero(between >= between.max() * (1 - 1e-9)))))
    plain = values[values <= edges[best + 1]]
    return float(edges[best + 1]), float(high[best]), float(low[best]), float(plain.std()) if plain.size else 0.0


def _main_ink(mask: Mask, *, on_paper: bool) -> tuple[Mask, bool]:
    """The ink that belongs to the digit, and whether there are several digits side by side.

    Specks go; on a photo so does what runs out of the picture, as a table's edge or a ruled line does.
    """
    parts = components(mask)
    if not parts:
        return np.zeros_like(mask), False
    height, width = mask.shape
    if on_paper:
        inner = [p for p in parts if p.top > 0 and p.left > 0 and p.bottom < height and p.right < width]
        if inner and max(p.area for p in inner) >= 0.1 * max(p.area for p in parts):
            parts = inner
    largest = max(parts, key=lambda part: part.area)
    speck = (0.12 if on_paper else 0.06) * largest.area
    parts = [part for part in parts if part.area >= speck]
    keep = np.zeros_like(mask)
    for part in parts:
        keep[part.rows, part.columns] = True
    digits = [p for p in parts if p.area >= 0.2 * largest.area and p.height >= 0.45 * largest.height]
    digits.sort(key=lambda part: part.left)
    apart = [min(one.right, two.right) - two.left <= 0.1 * min(one.width, two.width) for one, two in pairwise(digits)]
    return keep, any(apart)


def centre_line(ink: Floats) -> tuple[Floats, float]:
    """The ink's centre line: float32 [n, 2] points (y, x), in pixels at the scale where the ink's box is THIN long, and
    the stroke's width at that scale.
    """
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = THIN / max(box.shape)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    picture = np.pad(_resize(np.ascontiguousarray(box), size), 4)
    # A ragged edge grows whiskers when thinned: smooth it first.
    mask = _blur(picture, 1.2) > 0.5
    if not mask.any():
        mask = picture >= picture.max()
    line = thin(mask)
    points = np.argwhere(line).astype(np.float32)
    return points, float(mask.sum()) / max(len(points), 1)


def redraw(line: Floats) -> npt.NDArray[np.uint8]:
    """`line` (float32 [n, 2], y and x at any scale) drawn as MNIST draws: uint8 [28, 28, 1]."""
    low, high = line.min(axis=0), line.max(axis=0)
    scale = (BOX - STROKE) / max(float((high - low).max()), 1e-3)
    points = (line - (low + high) / 2) * scale + SIDE / 2
    # The centre of mass of the ink, not of the box, belongs in the middle; a second pass moves the rest of the pixel.
    for _ in range(2):
        ink = _stroke(points)
        y, x = np.mgrid[0.5:SIDE, 0.5:SIDE]
        mass = float(ink.sum())
        points = points + SIDE / 2 - np.array([(ink * y).sum() / mass, (ink * x).sum() / mass], np.float32)
    return np.round(_stroke(points) * 255).astype(np.uint8)[..., None]


def _stroke(points: Floats) -> Floats:
    """Ink of a round brush drawn through `points`, by each pixel's distance to the nearest: float32 [28, 28]."""
    y, x = np.mgrid[0.5:SIDE, 0.5:SIDE].astype(np.float32)
    distance = np.full((SIDE, SIDE), np.inf, np.float32)
    for chunk in np.array_split(points, max(1, len(points) // 64)):
        squared = (y[..., None] - chunk[:, 0]) ** 2 + (x[..., None] - chunk[:, 1]) ** 2
        distance = np.minimum(distance, squared.min(axis=-1))
    return np.clip((STROKE / 2 - np.sqrt(distance)) / EDGE + 0.5, 0, 1).astype(np.float32)


def _resize(values: Floats, size: tuple[int, int]) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)


def _blur(values: Floats, sigma: float) -> Floats:
    """Gaussian blur of float32 [H, W] (Pillow's filters take 8 bits only)."""
    radius = max(1, int(3 * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (radius, radius)
        padded = np.pad(values, widths, mode="edge")
        length = values.shape[axis]
        values = sum(tap * np.take(padded, range(i, i + length), axis=axis) for i, tap in enumerate(taps))
    return np.asarray(values, np.float32)
