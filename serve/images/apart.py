"""Find sheets of paper that lie apart from each other in a photo; `sheet.py` finds the edges of one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.images.crop import Box
from serve.images.ink import otsu
from serve.images.regions import regions

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SMALL = 96  # longest side of the image in which the sheets are looked for, pixels
DARK = 20.0  # grey levels that are added before the logarithm: differences among dark pixels are noise
PEN = 9  # more than twice the width of a stroke, pixels
LEAST, MOST = 0.06, 0.6  # of the image's area that each sheet takes
PLAIN = 0.6  # of a sheet is not written on: less is a ring, such as a 0
LONG = 3.5  # times its width: a longer piece is a strip of the table, or between two lines
FULL = 0.82  # of the smallest rectangle around a sheet, turned as it lies, is the sheet
TWO_TONES = 0.8  # of the variance is between two tones; a slope from dark to light has 0.75
MARGIN = 3  # pixels around a sheet, where its edge is looked for


def find_apart(image: Image.Image) -> list[Box]:
    """Find sheets that lie apart from each other in `image` (RGB): a box in pixels around each, the largest first.

    They must have one tone, and the table another. Returns nothing unless there are two or more.
    """
    scale = SMALL / max(image.size)
    small = image.convert("L").resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    # Without what is written.
    tone = np.log(np.asarray(small.filter(ImageFilter.MedianFilter(PEN)), np.float32) + DARK)
    light = _lighter(tone)
    if light is None:  # once more as if the light came from all sides alike
        light = _lighter(tone - _slope(tone))
    if light is None:
        return []
    for mask in (light, ~light):
        parts = regions(_filled(mask))
        height, width = mask.shape
        found: list[Box] = []
        for i in np.argsort(-parts.areas):
            rows, columns = parts.top[i], parts.left[i]
            # Neither a strip of table from one side to the other, nor the table around a sheet.
            across = (columns == 0 and parts.right[i] == width) or (rows == 0 and parts.bottom[i] == height)
            share = parts.areas[i] / mask.size
            whole = parts.labels == i + 1
            is_sheet = LEAST <= share <= MOST and not across and mask[whole].mean() > PLAIN
            if is_sheet and _is_oblong(whole):
                box = (
                    np.array([columns - MARGIN, rows - MARGIN, parts.right[i] + MARGIN, parts.bottom[i] + MARGIN])
                    / scale
                )
                left, top, right, bottom = np.clip(np.rint(box), 0, [*image.size, *image.size]).astype(int).tolist()
                found.append((left, top, right, bottom))
        if len(found) > 1:
            return found
    return []


def _lighter(tone: Floats) -> Mask | None:
    """Split float32 [H, W] into two tones: bool [H, W], where the lighter one is; None if there are not two."""
    scaled = (tone - tone.min()) / max(float(np.ptp(tone)), 1e-6)
    mask: Mask = scaled > otsu(scaled)[0]
    if not mask.any() or mask.all():
        return None
    share = float(mask.mean())
    between = share * (1 - share) * float(scaled[mask].mean() - scaled[~mask].mean()) ** 2
    return mask if between > TWO_TONES * float(scaled.var()) else None


def _slope(tone: Floats) -> Floats:
    """Fit a plane to the border of float32 [H, W], where the table is: float32 [H, W]."""
    y, x = np.mgrid[-1 : 1 : tone.shape[0] * 1j, -1 : 1 : tone.shape[1] * 1j]
    border = np.maximum(np.abs(x), np.abs(y)) > 0.95
    terms = np.stack([np.ones_like(x), x, y], axis=-1)
    factors = np.linalg.lstsq(terms[border], tone[border], rcond=None)[0]
    return np.asarray(terms @ factors, np.float32)


def _filled(mask: Mask) -> Mask:
    """Fill the holes of bool [H, W]: what is written on a sheet."""
    others = regions(~mask)
    height, width = mask.shape
    holes = (others.top > 0) & (others.left > 0) & (others.bottom < height) & (others.right < width)
    filled: Mask = mask | others.only(holes)
    return filled


def _is_oblong(mask: Mask) -> bool:
    """Tell whether a region, bool [H, W], fills a rectangle of any direction that is not too long."""
    y, x = (places + 0.5 for places in np.nonzero(mask))
    angles = np.deg2rad(np.arange(0, 90, 3))[:, None]
    across = np.ptp(x * np.cos(angles) + y * np.sin(angles), axis=1) + 1
    along = np.ptp(y * np.cos(angles) - x * np.sin(angles), axis=1) + 1
    best = int((across * along).argmin())
    sides = sorted((across[best], along[best]))
    return bool(len(x) >= FULL * sides[0] * sides[1] and sides[1] <= LONG * sides[0])
