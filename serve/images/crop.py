"""The square that a visitor has drawn over an image: the part of it to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from serve.errors import BadRequest

SMALLEST = 0.05  # side of a square, as a share of the image's shorter side
LONGEST_TEXT = 100  # characters
Box = tuple[int, int, int, int]  # left, top, right and bottom, pixels

# Where a box of the upright image lies in the stored one, whose width and height are w and h.
STORED: dict[Image.Transpose | None, Callable[[int, int, int, int, int, int], Box]] = {
    None: lambda left, top, right, bottom, _w, _h: (left, top, right, bottom),
    Image.Transpose.FLIP_LEFT_RIGHT: lambda left, top, right, bottom, w, _h: (w - right, top, w - left, bottom),
    Image.Transpose.FLIP_TOP_BOTTOM: lambda left, top, right, bottom, _w, h: (left, h - bottom, right, h - top),
    Image.Transpose.ROTATE_180: lambda left, top, right, bottom, w, h: (w - right, h - bottom, w - left, h - top),
    Image.Transpose.TRANSPOSE: lambda left, top, right, bottom, _w, _h: (top, left, bottom, right),
    Image.Transpose.ROTATE_90: lambda left, top, right, bottom, w, _h: (w - bottom, left, w - top, right),
    Image.Transpose.ROTATE_270: lambda left, top, right, bottom, _w, h: (top, h - right, bottom, h - left),
    Image.Transpose.TRANSVERSE: lambda left, top, right, bottom, w, h: (w - bottom, h - right, w - top, h - left),
}
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
)


@dataclass(frozen=True)
class Crop:
    """A square part of an image as it is displayed, that is, after the turn that its EXIF data ask for.

    Attributes:
        x: its left side, as a share of the image's width.
        y: its top side, as a share of the image's height.
        side: its side, as a share of the image's shorter side. What would reach beyond the image is moved inside.
    """

    x: float
    y: float
    side: float

    def box(self, size: tuple[int, int], turn: Image.Transpose | None = None) -> Box:
        """Find the square in a stored image of `size` (width, height) that is displayed after `turn`: a box in it."""
        width, height = size[::-1] if turn in SIDEWAYS else size
        side = max(1, round(self.side * min(size)))
        left, top = (min(round(at * length), length - side) for at, length in ((self.x, width), (self.y, height)))
        return STORED[turn](left, top, left + side, top + side, *size)

    def enough(self, pixels: int) -> int:
        """Return the pixels that the image's shorter side needs for the square to have `pixels` a side."""
        return round(pixels / self.side)


def read_crop(given: object) -> Crop | None:
    """Read "x,y,side", as in `Crop`, from a stranger; None or an empty text means the whole image.

    Raises:
        BadRequest: it is something else.
    """
    if given is None or given == "":
        return None
    try:
        if not isinstance(given, str) or len(given) > LONGEST_TEXT:
            raise ValueError
        x, y, side = map(float, given.split(","))
    except ValueError:
        x = y = side = float("nan")
    if not (0 <= x <= 1 and 0 <= y <= 1 and SMALLEST <= side <= 1):  # written so that NaN is refused
        valid = f'"x,y,side" with x and y from 0 to 1 and side from {SMALLEST} to 1'
        raise BadRequest(f"the crop must be {valid}, not {given!r:.{LONGEST_TEXT}}")
    return Crop(x, y, side)
