"""Find the one digit in a drawing or a photo, and prepare it as an MNIST model expects it (`digits.py`).

The input may be dark ink on light, light on dark, or a transparent canvas; of any size; a flat canvas or a photo of
paper with shadows. If a photo shows more than a sheet of paper, the sheet is found first and straightened (`sheet.py`);
of several sheets (`apart.py`), the one with a digit is read. Lines of ruled paper are left out (`ruling.py`). A visitor
may point to the digit with a square (`crop.py`). The app's drawing pad sends strokes, which need none of this
(`strokes.py`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from serve.images.apart import find_apart
from serve.images.crop import Box, Crop
from serve.images.digits import SIDE, Digit, judge, main_ink
from serve.images.ink import FAINT, find_ink, frame, is_flat
from serve.images.sheet import FRAME, Corners, Sheet, find_sheet, moved, rectify

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

WORK = 400  # longest side of the image in which ink is looked for, pixels; larger inputs are scaled down
ENOUGH = 2 * WORK  # pixels on the longer side of a photo, plenty to straighten a sheet of that size
AROUND = 1.0  # of a square's side: so far beyond it strokes are followed ...
LEAST = 0.4  # ... and in at least this share of the sheet's width and height: wide strokes would pass for paper


def prepare(image: Image.Image, crop: Crop | None = None) -> Digit:
    """Prepare the one digit in `image` (any mode and size) as MNIST would show it.

    Args:
        image: a drawing or a photo.
        crop: where to look for the digit. Ink across the square's border is not cut, unless it is two digits that
            touch: it is read whole, or not at all if most of it is outside and there is other ink inside.

    Returns:
        The pixels, and the problem if there is one. `blank`, `dot` and `cut` have no pixels. `several` (digits side by
        side, touching, or on several sheets) and `scribble` have them, for a caller that wants a guess all the same.
    """
    image = _on_paper(image)
    if crop is None and max(image.size) <= SIDE:
        return _as_it_is(_greyscale(image))
    colours = image.convert("RGB")
    most = crop.enough(ENOUGH) if crop else ENOUGH
    colours.thumbnail((most, most), Image.Resampling.BOX)
    square = _corners(crop.box(colours.size), colours.size) if crop else None
    return _prepare_apart(colours, square) or _prepare_one(colours, _greyscale(image), square)


def _corners(box: Box, size: tuple[int, int]) -> Corners:
    """Return the corners of a box in pixels as shares of an image's width and height."""
    (width, height), (left, top, right, bottom) = size, box
    return [(x / width, y / height) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]


def _holds(sheet: Corners, square: Corners) -> bool:
    """Tell whether the middle of a square is on a sheet."""
    middle = (sum(x for x, _ in square) / 4, sum(y for _, y in square) / 4)
    ((x, y),) = moved([middle], sheet, FRAME)
    return 0 <= x <= 1 and 0 <= y <= 1


def _prepare_apart(image: Image.Image, square: Corners | None) -> Digit | None:
    """Prepare the one digit on several sheets that lie apart in an RGB image; None if there are none with a digit.

    With the corners of a square, the sheet that it is on is the only one.
    """
    digits = []
    for box in find_apart(image):
        around = _corners(box, image.size)
        if square is not None and not _holds(around, square):
            continue
        part = image.crop(box)
        found = _prepare_one(part, _greyscale(part), square and moved(square, around, FRAME))
        if found.pixels is not None:
            digits.append(replace(found, sheet=found.sheet and found.sheet.within(box, image.size)))
    if len(digits) > 1:  # which of them is meant, nobody knows
        return replace(digits[0], problem="several", sheet=None)
    return digits[0] if digits else None


def _prepare_one(image: Image.Image, grey: Floats, square: Corners | None) -> Digit:
    """Prepare the one digit on the one sheet that is in an RGB image.

    Args:
        image: the photo.
        grey: the same as float32 [H, W], no larger than WORK.
        square: the corners of where to look for the digit, shares of the image's width and height; None: everywhere.
    """
    sheet, flat = find_sheet(image), is_flat(grey)
    if sheet is None or (flat and not _stands_out(grey, sheet)) or (square and not _holds(sheet.corners, square)):
        return (_read_part(image, FRAME, square, flat=flat) if square else _read(grey, flat=flat))[0]
    digit, met = _read_sheet(image, sheet, square)
    found = {side for side in range(4) if sheet.ends[side]}
    cut = met & found
    if digit.pixels is not None and not cut:
        return replace(digit, sheet=sheet)
    # Where ink goes on beyond an edge, or all of it is beyond one, that was more likely a shadow's edge, or a line.
    for sides in [cut] if cut else [{side} for side in found]:
        wider = sheet.without(sides)
        other, met = _read_sheet(image, wider, square) if wider or square else _read(grey)
        if other.pixels is not None and not met & (sides | found):
            return replace(other, sheet=wider)
    return replace(digit, sheet=sheet)


def _stands_out(grey: Floats, sheet: Sheet) -> bool:
    """Tell a sheet on a plain table from strokes on a canvas: it differs from the table, and nothing else does."""
    other = np.abs(grey - np.median(frame(grey))) > 255 * FAINT
    corners = (np.array(sheet.corners) - 0.5) * 1.08 + 0.5
    inside = Image.new("1", grey.shape[::-1])
    ImageDraw.Draw(inside).polygon([(x, y) for x, y in corners * grey.shape[::-1]], 1)
    within = other & np.asarray(inside)
    return bool(within.sum() > max(0.95 * other.sum(), 0.6 * np.asarray(inside).sum()))


def _read_sheet(image: Image.Image, sheet: Sheet | None, square: Corners | None) -> tuple[Digit, set[int]]:
    """Prepare the digit on a sheet in an RGB image; also return at which of its sides the ink meets the edge."""
    corners = sheet.corners if sheet else FRAME
    if square:
        return _read_part(image, corners, square)
    return _read(_greyscale(rectify(image, corners, WORK)))


def _read_part(image: Image.Image, sheet: Corners, square: Corners, *, flat: bool = False) -> tuple[Digit, set[int]]:
    """Prepare the digit in a square on a sheet; also return at which of the sheet's sides the ink meets the edge."""
    # Where the square is on the sheet, and how much of the sheet around it is looked at.
    at = np.array(moved(square, sheet, FRAME))
    size = np.ptp(at, axis=0)
    margin = np.maximum(AROUND * size, (LEAST - size) / 2)
    low, high = (at.min(axis=0) - margin).clip(0, 1), (at.max(axis=0) + margin).clip(0, 1)
    (left, top), (right, bottom) = low, high
    around = [(left, top), (right, top), (right, bottom), (left, bottom)]
    part = rectify(image, moved(around, FRAME, sheet), WORK, WORK // 2)
    inside = Image.new("1", part.size)
    ImageDraw.Draw(inside).polygon([(x, y) for x, y in (at - low) / (high - low) * part.size], 1)
    digit, met = _read(_greyscale(part), np.asarray(inside), flat=flat)
    beyond = {side for side, on in enumerate((left > 0, top > 0, right < 1, bottom < 1)) if on}
    if digit.pixels is not None and met & beyond:
        digit = Digit(None, "cut")
    return digit, met - beyond


def _read(grey: Floats, square: Mask | None = None, *, flat: bool = False) -> tuple[Digit, set[int]]:
    """Prepare the digit in float32 [H, W]; also return at which sides (0 to 3, as in `Sheet`) the ink meets its border.

    Args:
        grey: the image.
        square: bool [H, W], where the digit is looked for; None: everywhere.
        flat: whether it is a canvas of one tone, and not a photo.
    """
    ink = find_ink(grey, square, flat=flat)
    keep, several = main_ink(ink > 0.5, square, on_paper=not flat)
    digit = judge(ink, keep, several)
    if digit.problem == "several" and not several and square is not None and (keep & ~square).any():
        # Two that touch, which only the square can part.
        keep, several = main_ink((ink > 0.5) & square, on_paper=not flat)
        digit = judge(ink, keep, several)
    borders = (keep[:, 0], keep[0], keep[:, -1], keep[-1])
    return digit, {side for side, border in enumerate(borders) if border.any()}


def _on_paper(image: Image.Image) -> Image.Image:
    """Put a transparent canvas on plain paper, L; leave other images as they are."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    grey = rgba.convert("L")
    opaque = np.asarray(alpha) > 127
    # Strokes may have any colour, including black: choose a paper that shows them.
    tone = float(np.median(np.asarray(grey)[opaque])) if opaque.any() else 0.0
    return Image.composite(grey, Image.new("L", grey.size, 0 if tone > 127 else 255), alpha)


def _greyscale(image: Image.Image) -> Floats:
    """Convert to float32 [H, W], 0 to 255, longest side at most WORK."""
    grey = image.convert("L")
    scale = WORK / max(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def _as_it_is(grey: Floats) -> Digit:
    """Centre an image no larger than MNIST's own, unchanged: redrawing it would only lose detail."""
    light = float(np.median(frame(grey))) > 127
    ink = 255 - grey if light else grey
    if ink.max() < 64:
        return Digit(None, "blank")
    pixels = np.zeros((SIDE, SIDE, 1), np.uint8)
    height, width = ink.shape
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels[top : top + height, left : left + width, 0] = ink
    return Digit(pixels)
