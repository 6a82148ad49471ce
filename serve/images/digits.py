"""From a drawing or a photo of a digit to the 28x28 picture that an MNIST model knows.

MNIST's own recipe: the ink's box is scaled to 20 pixels on its longest side with antialiasing, then placed in 28x28
with its centre of mass in the middle. Here the stroke is first thinned to its centre line and redrawn with one even
width, because a 40 px brush on a small digit would otherwise give strokes unlike any in MNIST.

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

from serve.images.shapes import components, inner_distance, thin

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Problem = Literal["blank", "dot", "several", "scribble"]

SIDE = 28  # the dataset's picture
BOX = 20.0  # longest side of the ink in it, pixels
STROKE = 3.0  # width of the redrawn stroke, pixels of the 28x28 picture
EDGE = 1.3  # over how many pixels a redrawn stroke fades from full ink to none
FAINT = 0.07  # less contrast than this is no ink
WIDEST = 0.15  # wider than any stroke, as a share of a photo's longest side
WORK = 400  # longest side at which ink is looked for, pixels
THIN = 96  # longest side of the ink's box when it is thinned, pixels
SMOOTH = 1.2  # blur before thinning, pixels at that scale
BLOB = 1.25  # ink deeper than this share of the stroke's half width is a blob
DOT = 0.6  # ink whose thickness is more than this share of its length is a dot
# No digit has more than this: anything with more is a scribble.
MOST_INK = 200.0  # full pixels, at an even stroke
MOST_HOLES = 2
SMALLEST_HOLE = 8  # pixels at the scale of THIN
# More than this is two digits that touch: it holds for 68 % of touching pairs of MNIST training digits, and for one in
# 1,000 drawings and photos of a single one.
CROWDED = 4.5


@dataclass(frozen=True, eq=False)
class Digit:
    """A prepared digit. `pixels` is uint8 [28, 28, 1], white ink on black; None where there is no ink to classify."""

    pixels: npt.NDArray[np.uint8] | None
    problem: Problem | None = None


def prepare(image: Image.Image) -> Digit:
    """Make the MNIST picture of the one digit in `image` (any mode and size), or say what is wrong with it.

    `blank` and `dot` come without pixels; `several` (digits side by side, or touching) and `scribble` come with
    them, for a caller that wants a guess all the same.
    """
    grey = _greyscale(image)
    if max(grey.shape) <= SIDE:
        return _as_it_is(grey)
    flat, ink = find_ink(grey)
    keep, several = _main_ink(ink > 0.5, on_paper=not flat)
    if not keep.any():
        return Digit(None, "blank")
    mask = _close_up(np.where(keep, ink, np.float32(0)))
    line, thickest = centre_line(mask)
    if thickest > DOT:
        return Digit(None, "dot")
    pixels = redraw(line)
    if several:
        return Digit(pixels, "several")
    holes = sum(part.area > SMALLEST_HOLE for part in components(~mask)) - 1
    scribble = pixels.sum() / 255 > MOST_INK or holes > MOST_HOLES
    if scribble:
        return Digit(pixels, "scribble")
    return Digit(pixels, "several" if _crowding(pixels) > CROWDED else None)


def _greyscale(image: Image.Image) -> Floats:
    """Convert to float32 [H, W], 0 to 255, longest side at most WORK. A transparent canvas gets plain paper."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        grey = rgba.convert("L")
        opaque = np.asarray(alpha) > 127
        # Strokes may be of any colour, black included: choose a paper that shows them.
        tone = float(np.median(np.asarray(grey)[opaque])) if opaque.any() else 0.0
        image = Image.composite(grey, Image.new("L", grey.size, 0 if tone > 127 else 255), alpha)
    grey = image.convert("L")
    scale = WORK / max(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def _as_it_is(grey: Floats) -> Digit:
    """Take a picture no larger than the dataset's own as prepared: redrawing it would only lose detail."""
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
    """Tell whether the background is flat, and how much ink each pixel holds, float32 [H, W] from 0 to 1."""
    frame = _frame(grey)
    level = float(np.median(frame))
    flat = float(np.mean(np.abs(frame - level) <= 3)) > 0.8
    contrast = np.abs(grey - level) / 255 if flat else _contrast_on_paper(grey)
    # A small digit has too few pixels to be a class of its own: threshold the neighbourhood of the strongest only.
    top = float(contrast.max() if flat else np.percentile(contrast, 99.95))
    if top < FAINT:
        return flat, np.zeros_like(grey)
    near = _running_max((contrast > 0.5 * top).astype(np.float32), round(0.04 * max(grey.shape))) > 0
    threshold, inked, plain, noise = _otsu(contrast[near])
    ink = contrast > threshold
    if inked - plain < max(FAINT, 4 * noise) or ink.mean() > 0.6:
        return flat, np.zeros_like(grey)
    return flat, np.clip((contrast - threshold) / (inked - plain) + 0.5, 0, 1).astype(np.float32)


def _contrast_on_paper(grey: Floats) -> Floats:
    """Measure how far each pixel stands out from the paper around it, as a share of the paper's own brightness.

    The paper is the picture's morphological closing (opening, for light ink): what is left when everything narrower
    than WIDEST is filled. It follows the edge of a shadow, which an average would smear. Light multiplies: in a shadow
    paper and ink darken by the same factor, so their ratio stays the same.
    """
    smooth = _blur(grey, max(grey.shape) / 400)
    sheet = smooth if _ink_is_dark(smooth) else 255 - smooth
    window = round(WIDEST * max(grey.shape))
    paper = -_running_max(-_running_max(sheet, window), window)
    # Near black the ratio would be that of noise to noise.
    return np.clip((paper - sheet) / np.maximum(paper, 24), 0, 1).astype(np.float32)


def _ink_is_dark(grey: Floats) -> bool:
    """Tell whether the ink is darker than its paper: which of the two stands out further from the median around it."""
    small = Image.fromarray(_resize(grey, (64, 64)).astype(np.uint8))
    around = np.asarray(small.filter(ImageFilter.MedianFilter(21)), np.float32)
    difference = np.asarray(small, np.float32) - around
    return bool(-np.percentile(difference, 0.3) >= np.percentile(difference, 99.7))


def _running_max(values: Floats, window: int) -> Floats:
    """Find the largest value in the square of `window` pixels around each pixel of [H, W]."""
    for axis in (0, 1):
        radius = min(window // 2, values.shape[axis] - 1)
        widths = [(0, 0), (0, 0)]
        widths[axis] = (radius, radius)
        values = np.pad(values, widths, mode="edge")
        # Doubling: the largest of 2, then of 4, ... neighbours; the last step joins two that overlap to 2 * radius + 1.
        reach, length = 1, 2 * radius + 1
        while reach < length:
            step = min(reach, length - reach)
            end = values.shape[axis] - step
            values = np.maximum(np.take(values, range(end), axis), np.take(values, range(step, end + step), axis))
            reach += step
    return values


def _otsu(values: Floats) -> tuple[float, float, float, float]:
    """Find Otsu's threshold of `values` in [0, 1], the mean above and below it, and the spread below it."""
    top = max(float(values.max()), 1e-6)
    counts, edges = np.histogram(values, bins=128, range=(0.0, top))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    low = sums / np.maximum(below, 1)
    high = (sums[-1] - sums) / np.maximum(above, 1)
    # Between two separate groups every threshold is equally good: take the middle one.
    between = below * above * (high - low) ** 2
    best = round(float(np.mean(np.flatnonzero(between >= between.max() * (1 - 1e-9)))))
    plain = values[values <= edges[best + 1]]
    return float(edges[best + 1]), float(high[best]), float(low[best]), float(plain.std()) if plain.size else 0.0


def _main_ink(mask: Mask, *, on_paper: bool) -> tuple[Mask, bool]:
    """Select the ink that belongs to the digit, and tell whether there are several digits side by side.

    Specks are dropped; on a photo so is what runs out of the picture, such as a table's edge or a ruled line.
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
    tall = max(part.height for part in parts)
    digits = [part for part in parts if part.area >= 0.2 * largest.area and part.height >= 0.45 * tall]
    digits.sort(key=lambda part: part.left)
    apart = [two.left - one.right >= 0.04 * tall for one, two in pairwise(digits)]
    return keep, any(apart)


def _close_up(ink: Floats) -> Mask:
    """Cut out the ink's box, scaled to THIN pixels on its longest side, with a margin around it."""
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = THIN / max(box.shape)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    picture = np.pad(_resize(np.ascontiguousarray(box), size), 4)
    # Thinning turns a ragged edge into whiskers: smooth it first.
    mask = _blur(picture, SMOOTH) > 0.5
    return mask if mask.any() else picture >= picture.max()


def centre_line(mask: Mask) -> tuple[Floats, float]:
    """Find the centre line of ink whose box is THIN long.

    Returns float32 [n, 2], points (y, x) in pixels, and how thick the ink is at its thickest, as a share of THIN.

    Where the ink is thicker than its stroke, as in a loop that a thick brush has filled, the points fill that blob: it
    is all that is left of the loop.
    """
    line = thin(mask)
    depth = inner_distance(mask)
    if not line.any():  # Zhang and Suen's rule removes a square of four pixels whole
        line = depth == depth.max()
    half = float(np.median(depth[line]))
    return np.argwhere(line | (depth > BLOB * half)).astype(np.float32), 2 * float(depth.max()) / THIN


def redraw(line: Floats) -> npt.NDArray[np.uint8]:
    """Draw `line` (float32 [n, 2], y and x at any scale) as MNIST draws: uint8 [28, 28, 1]."""
    low, high = line.min(axis=0), line.max(axis=0)
    scale = (BOX - STROKE) / max(float((high - low).max()), 1e-3)
    points = (line - (low + high) / 2) * scale + SIDE / 2
    # The ink's centre of mass, not the box's, belongs in the middle; a second pass corrects what is left of a pixel.
    for _ in range(2):
        ink = _stroke(points)
        y, x = np.mgrid[0.5:SIDE, 0.5:SIDE]
        mass = float(ink.sum())
        points = points + SIDE / 2 - np.array([(ink * y).sum() / mass, (ink * x).sum() / mass], np.float32)
    return np.round(_stroke(points) * 255).astype(np.uint8)[..., None]


def _crowding(pixels: npt.NDArray[np.uint8]) -> float:
    """Measure how much stands side by side in a prepared digit: three signs of a second one, none conclusive alone.

    Its width over its height (a 2 may be wide), the strokes that a row crosses (a 0 has two) and the ink (an 8 has
    much); each moves by about as much between one digit and two.
    """
    ink = pixels[..., 0] > 100
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    begins = ink & ~np.pad(ink, ((0, 0), (1, 0)))[:, :-1]
    return float(width / height + begins.sum() / len(rows) + pixels.sum() / 255 / 100)


def _stroke(points: Floats) -> Floats:
    """Draw a round brush through `points`, by each pixel's distance to the nearest one: ink, float32 [28, 28]."""
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
    """Apply a Gaussian blur to float32 [H, W] (Pillow's filters take 8 bits only)."""
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
