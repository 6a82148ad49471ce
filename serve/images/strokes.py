"""Prepare a digit from the strokes of a drawing pad: the 28x28 image that an MNIST model expects.

Who knows the strokes needs no thinning: their lines are drawn again with one width for any size and any brush.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image, ImageDraw

from serve.errors import BadImage
from serve.images.digits import BOX, STROKE, THIN, Digit, main_ink, redraw, verdict
from serve.images.photos import prepare

Floats = npt.NDArray[np.float32]

MOST_BYTES = 256 * 1024
MOST_POINTS = 10_000  # of all strokes together
FARTHEST = 2.0  # how far from the pad a point may be, in sides of the pad

SIDE = 280  # pixels of a drawing in which strokes are joined and looked at
CORNER = math.radians(60)  # a turn by more than this is a corner; smaller ones are rounded
DOT = 0.03  # strokes that go no further, as a share of the pad's side, are a dot ...
DOT_BRUSH = 0.3  # ... and so are those that go no further than this share of the brush's width
TAP = 0.08  # shorter strokes than this share of all ink are stray taps
JOINED = 0.25  # strokes are joined where a brush of at most this share of the ink's longest side would join them


@dataclass(frozen=True, eq=False)
class Stroke:
    """A line as it was drawn: its width and its points, float32 [n, 2] (x, y), all in sides of the pad."""

    width: float
    points: Floats


def read_strokes(text: str) -> list[Stroke]:
    """Read what the pad sends: `{"strokes": [{"width": 0.07, "points": [x, y, x, y, ...]}, ...]}`.

    Widths and coordinates are shares of the pad's side, from the top left corner.

    Raises:
        BadImage: if it is anything else, or too much.
    """
    if len(text) > MOST_BYTES:
        _refuse(f"it has {len(text):,} characters; at most {MOST_BYTES:,} are allowed", 413)
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        _refuse(f"it is not JSON: {error}")
    strokes = found.get("strokes") if isinstance(found, dict) else None
    if not isinstance(strokes, list):
        _refuse('it has no list "strokes"')
    read = [_stroke(number, stroke) for number, stroke in enumerate(strokes, 1)]
    count = sum(len(stroke.points) for stroke in read)
    if count > MOST_POINTS:
        _refuse(f"it has {count:,} points; at most {MOST_POINTS:,} are allowed", 413)
    return read


def _stroke(number: int, stroke: Any) -> Stroke:
    if not isinstance(stroke, dict) or not {"width", "points"} <= stroke.keys():
        _refuse(f'stroke {number} has no "width" and "points"')
    width, points = stroke["width"], stroke["points"]
    if not _is_number(width) or not 0 < width <= 1:
        _refuse(f"stroke {number} has the width {width!r:.30}; valid is a number above 0 and up to 1")
    if not isinstance(points, list) or len(points) < 2 or len(points) % 2:
        _refuse(f"stroke {number} needs a list of x, y, x, y, ... with at least one point")
    for value in points:
        if not _is_number(value) or not -FARTHEST <= value <= 1 + FARTHEST:
            _refuse(f"stroke {number} has the coordinate {value!r:.30}; valid is {-FARTHEST:g} to {1 + FARTHEST:g}")
    return Stroke(float(width), np.array(points, np.float32).reshape(-1, 2))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # JSON knows no infinite ones


def _refuse(why: str, status: int = 400) -> NoReturn:
    raise BadImage(status, f"the drawing cannot be read: {why}")


def prepare_strokes(strokes: Sequence[Stroke]) -> Digit:
    """Prepare the one digit that `strokes` draw, as `photos.prepare` does for an image of it."""
    lines = [line for stroke in strokes for line in inside(curve(stroke.points))]
    if not lines:
        return Digit(None, "blank")
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    size, brush = float((high - low).max()), max(stroke.width for stroke in strokes)
    if size < max(DOT, DOT_BRUSH * brush):
        return Digit(None, "dot")
    # Of a digit of dots, every stroke is a tap.
    lines = [line for line in lines if np.ptp(line, axis=0).max() > TAP * size] or lines
    # Which strokes belong together, and whether they are one digit, is seen in a drawing of them.
    scale = SIDE / size
    centred = [(line - (low + high) / 2) * scale + SIDE for line in lines]
    keep, several = main_ink(_draw(centred, min(brush, JOINED * size) * scale), on_paper=False)
    kept = [line for line in centred if keep[tuple(np.rint(line[0]).astype(int)[::-1])]]
    points = np.concatenate(kept)
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - low).max() < DOT * SIDE:
        return Digit(None, "dot")  # one of several, apart from each other
    scale = THIN / float((high - low).max())
    fitted = [(line - (low + high) / 2) * scale + THIN for line in kept]
    # Points that are closer than the image can show are one.
    grid = np.unique(np.rint(np.concatenate(fitted) * 2), axis=0)[:, ::-1] / 2
    digit = verdict(redraw(grid.astype(np.float32)), _draw(fitted, THIN * STROKE / BOX), several=several)
    if digit.problem == "scribble":
        # Perhaps a thin brush has filled in a thick digit: then thinning finds its lines.
        thinned = prepare(picture(strokes))
        return digit if thinned.problem else thinned
    return digit


def picture(strokes: Sequence[Stroke]) -> Image.Image:
    """Draw `strokes` as the pad shows them: white on black, SIDE pixels a side."""
    image = Image.new("L", (SIDE, SIDE))
    for stroke in strokes:
        for line in inside(curve(stroke.points)):
            image.paste(255, mask=Image.fromarray(_draw([line * SIDE], stroke.width * SIDE, SIDE)))
    return image


def curve(points: Floats) -> Floats:
    """Round a polyline as the pad does: float32 [n, 2] to [m, 2], in steps of at most a hundredth of its size.

    Curves lead through the middles of its pieces. At a corner, the line goes to the point itself.
    """
    points = points[np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))]
    if len(points) == 1:
        return points
    step = max(float(np.ptp(points, axis=0).max()) / 100, 1e-4)
    along = np.diff(points, axis=0)
    turn = np.abs((np.diff(np.arctan2(along[:, 1], along[:, 0])) + np.pi) % (2 * np.pi) - np.pi)
    middles = (points[:-1] + points[1:]) / 2
    pieces = [_straight(points[0], middles[0], step)]
    for before, at, after, angle in zip(middles[:-1], points[1:-1], middles[1:], turn, strict=True):
        if angle > CORNER:
            pieces += [_straight(before, at, step), _straight(at, after, step)]
        else:
            t = _shares(np.abs(after - before).max(), step)
            pieces.append((1 - t) ** 2 * before + 2 * t * (1 - t) * at + t**2 * after)
    pieces.append(_straight(middles[-1], points[-1], step))
    return np.concatenate(pieces)


def _straight(one: Floats, other: Floats, step: float) -> Floats:
    return one + (other - one) * _shares(np.abs(other - one).max(), step)


def _shares(length: float, step: float) -> Floats:
    """Divide `length` into pieces of at most `step`: float32 [n, 1] from 0 to 1."""
    return np.linspace(0, 1, 2 + int(length / step), dtype=np.float32)[:, None]


def inside(line: Floats) -> list[Floats]:
    """Cut float32 [n, 2] into its parts on the pad, from 0 to 1."""
    on = ((line >= 0) & (line <= 1)).all(axis=1)
    changes = np.flatnonzero(np.diff(on)) + 1
    return [part for part in np.split(line, changes) if ((part[0] >= 0) & (part[0] <= 1)).all()]


def _draw(lines: Sequence[Floats], width: float, side: int | None = None) -> npt.NDArray[np.bool_]:
    """Draw lines, float32 [n, 2] (x, y) in pixels, with a round brush: bool [side, side]; by default all of them."""
    if side is None:
        side = math.ceil(max(float(line.max()) for line in lines) + width + 4)
    image = Image.new("1", (side, side))
    pen = ImageDraw.Draw(image)
    radius = max(width, 1) / 2
    for line in lines:
        pen.line([tuple(point) for point in line.tolist()], 1, max(1, round(width)))
        for x, y in line[:: max(1, int(radius / 4))].tolist() + line[-1:].tolist():
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], 1)
    return np.asarray(image)
