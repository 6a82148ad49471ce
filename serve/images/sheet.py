"""Find the sheet of paper in a photo: where the table around it begins, on one to four sides.

A sheet's edge is a straight line along which the picture changes from one side to the other, with the same sign from
one corner to the next. That holds for any tone of table and for wood, whose own edges are short or change their sign.
Strokes are too short for it. The search has two steps. For each side of the frame, all lines in its reach are rated by
how much of their middle half is such an edge; the best few are kept. Then the lines of the four sides are combined:
each must be an edge all the way between its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Corners = Sequence[tuple[float, float]]
FRAME: Corners = ((0, 0), (1, 0), (1, 1), (0, 1))  # of an image

# All values below were chosen on the train split of benchmarks/drawn_digits.py.
SMALL = 96  # longest side of the image in which the edges are looked for, pixels
FLOOR = 20.0  # grey levels that are added before the logarithm: differences among dark pixels are noise
BANDS = (3, 9)  # pixels on either side of a line whose means are compared; the wide ones tell an edge from a stroke
STEP = 0.08  # difference of their logarithms from which a pixel of a line counts in full
INWARD, OUTWARD = 0.42, 0.12  # how far inside and outside the frame a line may end, as a share of the frame's side
LINES = 4  # candidates a side
APART = 10  # pixels by which two candidates differ, both ends together
LIKELY = 0.45  # how much of a candidate's middle half is an edge
SHARP = (0.7, 1.4)  # how much of an edge's change is within three pixels: less for a shadow, more for a stroke
UNSEEN = 0.5  # what counts for the part of a line outside the frame
WHOLE = 0.6  # how much of a side is an edge between its neighbours
SHORTEST = 0.16  # the shortest distance between two opposite corners, as a share of the frame's side
TRIM = 0.012  # of the sheet's sides is cut off where an edge was found: the edge itself is blurred


@dataclass(frozen=True)
class Sheet:
    """Where a sheet lies in an image.

    Attributes:
        ends: for its left, top, right and bottom side, how far from the image's border the side's two ends are, as a
            share of the image's width (left, right) or height; None for a side that was not found.
        size: the image's width and height.
    """

    ends: tuple[tuple[float, float] | None, ...]
    size: tuple[int, int]

    @property
    def edges(self) -> int:
        """How many of the four sides were found; the others are the image's own."""
        return sum(side is not None for side in self.ends)

    @property
    def corners(self) -> Corners:
        """The top left, top right, bottom right and bottom left corner: x and y as shares of width and height."""
        return _quad(self.ends)

    def without(self, sides: Collection[int]) -> Sheet | None:
        """Return the sheet that has the image's own border at `sides` (0 to 3), or None if no other side is left."""
        sheet = Sheet(tuple(None if i in sides else side for i, side in enumerate(self.ends)), self.size)
        return sheet if sheet.edges else None

    def within(self, box: Sequence[int], size: tuple[int, int]) -> Sheet:
        """Return the same sheet in an image of `size` (width, height), of which this one's image is the part `box`."""
        ends = []
        for i, side in enumerate(self.ends):
            across, along = i % 2, 1 - i % 2
            before = box[across] if i < 2 else size[across] - box[across + 2]
            span, length = box[across + 2] - box[across], box[along + 2] - box[along]
            start, end = side or (0.0, 0.0)
            # The line goes on to the borders of the whole image.
            places = (-box[along] / length, (size[along] - box[along]) / length)
            first, last = ((before + span * (start + (end - start) * place)) / size[across] for place in places)
            ends.append((first, last))
        return Sheet(tuple(ends), size)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Candidates for one side of the sheet; the first stands for none.

    Attributes:
        ends: float64 [n, 2], the distances in pixels from the frame's border at the side's two ends.
        sums: float64 [n, length + 1], running sums along the side of how much more of an edge it is than WHOLE.
    """

    ends: Numbers
    sums: Numbers


def find_sheet(image: Image.Image) -> Sheet | None:
    """Find the sheet in `image` (RGB, any size). Returns None if no edge of a sheet is in view."""
    scale = SMALL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if min(width, height) < SMALL // 4:
        return None
    tone = np.log(np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32) + FLOOR)
    across = _steps(tone)  # changes from left to right
    down = _steps(tone.transpose(1, 0, 2))  # from top to bottom, [W, H, 3]
    steps = [across, down, across[:, ::-1], down[:, ::-1]]
    tones = [tone, tone.transpose(1, 0, 2), tone[:, ::-1], tone.transpose(1, 0, 2)[:, ::-1]]
    sides = [_lines(one, step) for one, step in zip(tones, steps, strict=True)]
    best = _combine(sides, width, height)
    if not any(best):
        return None
    lengths = (width, height, width, height)
    found = [tuple(side.ends[line] / length) for side, line, length in zip(sides, best, lengths, strict=True)]
    corners = _quad(found)
    ends: list[tuple[float, float] | None] = [None] * 4
    for i, line in enumerate(best):
        if line:
            between = [corners[j][1 - i % 2] * lengths[i - 1] for j in ((0, 3), (0, 1), (1, 2), (3, 2))[i]]
            start, end = (
                _sharpest(steps[i], sides[i].ends[line], between[0], between[1], reach=3) + TRIM * SMALL
            ) / lengths[i]
            ends[i] = (float(start), float(end))
    return Sheet(tuple(ends), image.size)


def _quad(ends: Sequence[tuple[float, float] | None]) -> Corners:
    """Intersect the sides left, top, right and bottom, given as in `Sheet.ends`: the four corners from the top left."""
    left, top, right, bottom = (np.array(side or (0.0, 0.0)) for side in ends)
    pairs = ((left, top), (1 - right, top), (1 - right, 1 - bottom), (left, 1 - bottom))
    return [(float(x), float(y)) for x, y in (_meet(*pair, 1, 1) for pair in pairs)]


def _steps(tone: Floats) -> Floats:
    """Compare the bands left and right of each pixel boundary of float32 [H, W, 3]: [H, W + 1, 3], -1 to 1."""
    width = tone.shape[1]
    sums = np.cumsum(np.pad(tone, ((0, 0), (1, 0), (0, 0))), axis=1, dtype=np.float32)
    at = np.arange(width + 1)
    steps = []
    for band in BANDS:
        low, high = np.maximum(at - band, 0), np.minimum(at + band, width)
        before = (sums[:, at] - sums[:, low]) / np.maximum(at - low, 1)[:, None]
        after = (sums[:, high] - sums[:, at]) / np.maximum(high - at, 1)[:, None]
        steps.append((after - before) / STEP)
    narrow, wide = steps
    step = np.where(narrow * wide > 0, np.sign(narrow) * np.minimum(np.abs(narrow), 2 * np.abs(wide)), 0)
    step[:, [0, -1]] = 0
    # A step that counts in full counts a little more the sharper it is: the line is to lie where it is sharpest.
    return (np.clip(step, -1, 1) + 0.04 * np.clip(step, -25, 25)).astype(np.float32)


def _lines(tone: Floats, steps: Floats) -> _Lines:
    """Find the lines near the left border of [H, W, 3] tone, with [H, W + 1, 3] steps, that may be the sheet's edge."""
    height, width = tone.shape[:2]
    ends = np.arange(-round(OUTWARD * width), round(INWARD * width) + 1, 2)
    rows = np.linspace(0.25 * height, 0.75 * height, 24).astype(int)
    means = _means(steps, ends[:, None], ends[None, :], rows)
    rating = np.abs(means).max(axis=2)
    lines, sums = [(0.0, 0.0)], [np.zeros(height + 1)]
    every = np.arange(height)
    for _ in range(LINES):
        i, j = np.unravel_index(int(rating.argmax()), rating.shape)
        if rating[i, j] < LIKELY:
            break
        channel = int(np.abs(means[i, j]).argmax())
        sign = np.sign(means[i, j, channel])
        x = _positions(ends[i], ends[j], every, height)
        near = np.stack([sign * steps[every, np.clip(x + d, 0, width), channel] for d in (-2, -1, 0, 1, 2)])
        profile = np.clip(near.max(axis=0), 0, 1)
        profile[(x < 1) | (x >= width)] = UNSEEN
        rating[np.abs(ends - ends[i])[:, None] + np.abs(ends - ends[j])[None, :] < APART] = 0
        best = _sharpest(steps, np.array([ends[i], ends[j]], float), rows[0], rows[-1], reach=2)
        if not SHARP[0] <= _sharpness(tone[..., channel], best, rows) <= SHARP[1]:
            continue
        lines.append((float(best[0]), float(best[1])))
        sums.append(np.append(0, np.cumsum(profile - WHOLE, dtype=np.float64)))
    return _Lines(np.array(lines), np.array(sums))


def _sharpness(tone: Floats, ends: Numbers, rows: Ints) -> float:
    """Compare, along a line, the change from pixel to pixel with the change from further left to further right."""
    x = _positions(ends[:1], ends[1:], rows, tone.shape[0])
    x, rows = x[(x >= 1) & (x < tone.shape[1])], rows[(x >= 1) & (x < tone.shape[1])]
    if not len(x):
        return 0.0
    value = [tone[rows, np.clip(x + d, 0, tone.shape[1] - 1)] for d in range(-6, 6)]
    # Medians: a finger may cover a part.
    far = float(np.median(np.mean(value[-3:], axis=0) - np.mean(value[:3], axis=0)))
    return float(np.median(value[7] - value[4])) / far if far else 0.0


def _means(steps: Floats, start: Ints | Numbers, end: Ints | Numbers, rows: Ints) -> Floats:
    """Average [H, W + 1, 3] steps in `rows` along lines between `start` and `end`, pixels from the left: [..., 3]."""
    height, width = steps.shape[0], steps.shape[1] - 1
    at = _positions(start[..., None], end[..., None], rows, height)
    inside = ((at >= 1) & (at < width)).sum(axis=-1)
    total = steps[rows, np.minimum(np.maximum(at, 0), width)].sum(axis=-2)  # nothing at the border, nor outside
    return np.asarray(total / np.maximum(inside, 0.6 * len(rows))[..., None], np.float32)


def _positions(start: Ints | Numbers, end: Ints | Numbers, rows: Ints, height: int) -> Ints:
    """Return the pixels of lines from `start` in the first row to `end` in the last, in each of `rows`."""
    found: Ints = np.rint(start + (end - start) * (rows / max(height - 1, 1))).astype(np.int64)
    return found


def _sharpest(steps: Floats, ends: Numbers, first: float, last: float, reach: int) -> Numbers:
    """Move a line's ends by up to `reach` pixels to where it is sharpest between `first` and `last`."""
    low = min(max(0, round(first) + 1), steps.shape[0] - 2)
    rows = np.arange(low, max(min(steps.shape[0], round(last) - 1), low + 1), 2)
    shifts = np.arange(-reach, reach + 1)
    means = np.abs(_means(steps, ends[0] + shifts[:, None], ends[1] + shifts[None, :], rows)).max(axis=2)
    i, j = np.unravel_index(int(means.argmax()), means.shape)
    return ends + shifts[[i, j]]


def _meet(upright: Numbers, level: Numbers, height: int, width: int) -> tuple[Numbers, Numbers]:
    """Intersect lines: x and y of where `upright` [..., 2], x at the top and the bottom, meets `level` [..., 2]."""
    a, b = upright[..., 0], (upright[..., 1] - upright[..., 0]) / height
    c, d = level[..., 0], (level[..., 1] - level[..., 0]) / width
    y = (c + d * a) / (1 - b * d)
    return a + b * y, y


def _combine(sides: list[_Lines], width: int, height: int) -> tuple[int, ...]:
    """Choose a line for each of left, top, right and bottom: those that are most of an edge between their neighbours.

    All combinations are rated at once: the axes are the candidates for left, top, right and bottom.
    """
    left, top, right, bottom = (side.ends for side in sides)
    left, top = left[:, None, None, None], top[None, :, None, None]
    right, bottom = width - right[None, None, :, None], height - bottom[None, None, None, :]
    (x0, y0), (x1, y1) = _meet(left, top, height, width), _meet(right, top, height, width)
    (x3, y3), (x2, y2) = _meet(left, bottom, height, width), _meet(right, bottom, height, width)
    total = np.zeros([len(side.ends) for side in sides])
    for axis, (start, end) in enumerate(((y0, y3), (x0, x1), (y1, y2), (x3, x2))):
        sums = sides[axis].sums
        limit = sums.shape[1] - 1
        first = np.clip(np.rint(start), 0, limit - 1).astype(int)
        last = np.maximum(np.clip(np.rint(end), 0, limit).astype(int), first + 1)
        which = np.arange(len(sums)).reshape([-1 if i == axis else 1 for i in range(4)])
        total = total + (sums[which, last] - sums[which, first]) / (last - first)
    small = (np.minimum(x1 - x0, x2 - x3) < SHORTEST * width) | (np.minimum(y3 - y0, y2 - y1) < SHORTEST * height)
    total = np.where(small, 0, total)
    return tuple(int(i) for i in np.unravel_index(int(total.argmax()), total.shape))


def rectify(image: Image.Image, corners: Corners, longest: int, shortest: int = 1) -> Image.Image:
    """Cut a sheet out of `image`, RGB, and straighten it.

    Args:
        image: the photo.
        corners: the sheet's, from the top left clockwise: x and y as shares of the photo's width and height.
        longest: pixels that the sheet's longest side has at most.
        shortest: pixels that it has at least.
    """
    ends = np.array(corners) * image.size
    above, right, below, left = (float(np.hypot(*(ends[(i + 1) % 4] - ends[i]))) for i in range(4))
    side = max(above, below, left, right, 1.0)
    scale = float(np.clip(side, shortest, longest)) / side
    width, height = (max(1, round(scale * (a + b) / 2)) for a, b in ((above, below), (left, right)))
    # What lies outside the image looks like its border.
    around = max(0, math.ceil(-ends.min()), math.ceil((ends - image.size).max()))
    if around:
        image = Image.fromarray(np.pad(np.asarray(image), ((around, around), (around, around), (0, 0)), mode="edge"))
    numbers = _perspective(np.array(FRAME) * (width, height), ends + around)
    return image.transform((width, height), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)


def moved(points: Corners, source: Corners, target: Corners) -> Corners:
    """Apply to `points` the perspective that takes the four corners `source` to the four corners `target`."""
    a, b, c, d, e, f, g, h = _perspective(np.array(source), np.array(target))
    x, y = np.array(points).T
    over = g * x + h * y + 1
    return [(float(u), float(v)) for u, v in zip((a * x + b * y + c) / over, (d * x + e * y + f) / over, strict=True)]


def _perspective(source: Numbers, target: Numbers) -> tuple[float, ...]:
    """Solve for Pillow's eight numbers of the perspective that takes four points [4, 2] to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return tuple(np.linalg.solve(np.array(rows), target.ravel()).tolist())
