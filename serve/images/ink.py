"""Find the ink of a drawing or of a photo: how much each pixel holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.images.filters import blur, close, dilate
from serve.images.ruling import erase_ruling

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# All values below were chosen on the train split of benchmarks/drawn_digits.py.
FAINT = 0.07  # contrast (0 to 1) below which nothing counts as ink
WIDEST = 0.15  # more than the width of any stroke, as a share of a photo's longest side
NEAR = 0.04  # side of the square around strong ink in which the threshold is chosen, as a share of the longest side
LOCAL = 15  # side of the window of the local median, pixels of 64
LIGHTER = 1.25  # light ink must stand out more than this multiple of what dark ink does: it is rare
STEEPEST = 0.1  # slope of a ruled line
DARKEST_PAPER = 24  # grey level; on darker paper the contrast would be a ratio of noise to noise


def is_flat(grey: Floats) -> bool:
    """Decide whether float32 [H, W] is a canvas, whose border has one tone, and not a photo."""
    border = frame(grey)
    return float(np.mean(np.abs(border - np.median(border)) <= 3)) > 0.8


def find_ink(grey: Floats, square: Mask | None = None, *, flat: bool) -> Floats:
    """Find how much ink each pixel holds.

    Args:
        grey: float32 [H, W], 0 to 255.
        square: bool [H, W], where the ink is that decides what is ink; None: everywhere.
        flat: whether it is a canvas of one tone, and not a photo.

    Returns:
        float32 [H, W], 0 to 1.
    """
    if square is None:
        square = np.ones(grey.shape, bool)
    elif not square.any():
        return np.zeros_like(grey)
    contrast = np.abs(grey - np.median(frame(grey))) / 255 if flat else _contrast_on_paper(grey)
    contrast = erase_ruling(contrast, STEEPEST)
    # A small digit has too few pixels to form a class of its own: choose the threshold near the strongest ink only.
    top = float(contrast[square].max() if flat else np.percentile(contrast[square], 99.95))
    if top < FAINT:
        return np.zeros_like(grey)
    near = dilate(contrast > 0.5 * top, _odd(NEAR * max(grey.shape)))
    threshold, inked, plain, noise = otsu(contrast[near & square])
    if inked - plain < max(FAINT, 4 * noise) or (contrast > threshold).mean() > 0.6:
        return np.zeros_like(grey)
    ink: Floats = np.clip((contrast - threshold) / (inked - plain) + 0.5, 0, 1).astype(np.float32)
    return ink


def _contrast_on_paper(grey: Floats) -> Floats:
    """Measure how far each pixel stands out from the paper around it, as a share of the paper's own brightness.

    The paper is the image's morphological closing (of the inverted image, for light ink): everything narrower than
    WIDEST is filled. A closing follows the edge of a shadow, which an average would blur. Light multiplies: a shadow
    darkens paper and ink by the same factor, so their ratio stays the same.

    Returns:
        float32 [H, W], 0 to 1.
    """
    smooth = blur(grey, max(grey.shape) / 400)
    sheet = smooth if _ink_is_dark(smooth) else 255 - smooth
    window = _odd(WIDEST * max(grey.shape))
    paper = close(sheet, (window, window))
    return np.clip((paper - sheet) / np.maximum(paper, DARKEST_PAPER), 0, 1).astype(np.float32)


def _ink_is_dark(grey: Floats) -> bool:
    """Decide whether the ink is darker than its paper: do dark or light pixels differ more from the local median?"""
    small = Image.fromarray(resize(grey, (64, 64)).astype(np.uint8))
    around = np.asarray(small.filter(ImageFilter.MedianFilter(LOCAL)), np.float32)
    difference = np.asarray(small, np.float32) - around
    return bool(-np.percentile(difference, 0.3) * LIGHTER >= np.percentile(difference, 99.7))


def _odd(length: float) -> int:
    """Round `length`, in pixels, to the side of a window that has a middle pixel."""
    return 2 * (round(length) // 2) + 1


def otsu(values: Floats) -> tuple[float, float, float, float]:
    """Find Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979) of `values` in [0, 1].

    Returns:
        The threshold, the mean above it, the mean below it, and the standard deviation below it.
    """
    top = max(float(values.max()), 1e-6)
    counts, edges = np.histogram(values, bins=128, range=(0.0, top))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    low = sums / np.maximum(below, 1)
    high = (sums[-1] - sums) / np.maximum(above, 1)
    # All thresholds between two separate groups are equally good: take the middle one.
    between = below * above * (high - low) ** 2
    best = round(float(np.mean(np.flatnonzero(between >= between.max() * (1 - 1e-9)))))
    plain = values[values <= edges[best + 1]]
    return float(edges[best + 1]), float(high[best]), float(low[best]), float(plain.std()) if plain.size else 0.0


def frame(grey: Floats, share: float = 0.04) -> Floats:
    """Return the pixels along the four borders, a strip of `share` of the shorter side: float32 [n]."""
    edge = max(1, round(min(grey.shape) * share))
    return np.concatenate([grey[:edge].ravel(), grey[-edge:].ravel(), grey[:, :edge].ravel(), grey[:, -edge:].ravel()])


def resize(values: Floats, size: tuple[int, int]) -> Floats:
    """Resize float32 [H, W] to `size`, width and height."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
