"""The square that a visitor has drawn over an image: the part of it to be read."""

from __future__ import annotations

from dataclasses import dataclass

from serve.errors import BadRequest

SMALLEST = 0.05  # side of a square, as a share of the image's shorter side
MOST = 3200  # pixels a side that are decoded of an image for the sake of a small square
LONGEST_TEXT = 100  # characters
Box = tuple[int, int, int, int]  # left, top, right and bottom, pixels


@dataclass(frozen=True)
class Crop:
    """A square part of an image as it is displayed.

    Attributes:
        x: its left side, as a share of the image's width.
        y: its top side, as a share of the image's height.
        side: its side, as a share of the image's shorter side. What would reach beyond the image is moved inside.
    """

    x: float
    y: float
    side: float

    def box(self, size: tuple[int, int]) -> Box:
        """Find the square in an image of `size` (width, height)."""
        side = max(1, round(self.side * min(size)))
        left, top = (min(round(at * length), length - side) for at, length in zip((self.x, self.y), size, strict=True))
        return left, top, left + side, top + side

    def enough(self, pixels: int) -> int:
        """Return the pixels a side that are plenty for an image whose square needs `pixels`; no more than MOST."""
        return max(pixels, min(round(pixels / self.side), MOST))


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
