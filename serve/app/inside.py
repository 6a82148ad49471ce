"""What a network's maps look like: sheets of all maps of a stage, the chosen map, its filter and where it looks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.app.inference import KINDS, Kind, Pixels
from serve.engine.models import Scores
from serve.engine.studies import Filter, Stage

Grades = npt.NDArray[np.uint8]  # of brightness, from 0 to LEVELS - 1
# Pixels of a map's longer side in a sheet: larger maps are reduced to MOST, smaller ones are enlarged to about LEAST.
MOST, LEAST = 32, 6
FARTHEST = 16  # pixels that an image is moved; inside.js has it too
GAP = 4  # the gap between two slices of a filter is this part of a weight
LEVELS = 32  # of brightness in a sheet: as many colours
# Dark to light, also without colour vision; the first is a map that does not respond.
RAMP = np.array([[10, 10, 24], [70, 10, 90], [190, 40, 60], [250, 140, 20], [255, 240, 150]], np.float32)
# Negative, zero and positive weights.
SIGNS = np.array([[30, 100, 200], [238, 238, 238], [214, 84, 0]], np.float32)


@dataclass(frozen=True)
class Asked:
    """What a visitor wants to see.

    Attributes:
        kind: of the image.
        x: pixels that the image is moved to the right.
        y: pixels that it is moved down.
        stage: whose map is chosen: 0 to 2.
        channel: the chosen map; None: the one that responds most.
    """

    kind: Kind | None = None
    x: int = 0
    y: int = 0
    stage: int = 0
    channel: int | None = None


def asked(text: object) -> Asked:
    """Read what inside.js sends. Whatever a client sends instead counts as nothing."""
    try:
        given = json.loads(str(text))
        kind = given.get("kind")
        numbers = [int(given.get(name) or 0) for name in ("x", "y", "stage")]
        channel = given.get("map")
        channel = None if channel is None else int(channel)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return Asked()
    x, y = (min(max(number, -FARTHEST), FARTHEST) for number in numbers[:2])
    stage = numbers[2]
    return Asked(kind if kind in KINDS else None, x, y, min(max(stage, 0), 2), channel)


def moved(pixels: Pixels, x: int, y: int) -> Pixels:
    """Move uint8 [H, W, C] to the right and down, by half its size at most: black follows a digit, else the edge."""
    height, width, channels = pixels.shape
    x, y = (min(max(step, -size // 2), size // 2) for step, size in ((x, width), (y, height)))
    rows, columns = np.arange(height) - y, np.arange(width) - x
    found = pixels[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    if channels == 1:
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        found = found * inside[..., None]
    return np.asarray(found, np.uint8)


@dataclass(frozen=True)
class Sheet:
    """All maps of a stage in one image of grades, uint8 [H, W], with so many columns and rows of maps."""

    grades: Grades
    columns: int
    rows: int


def sheet(maps: Scores) -> Sheet:
    """Lay out float32 [channels, height, width] in one image, all on one scale of brightness."""
    count = len(maps)
    columns = _columns(count)
    rows = math.ceil(count / columns)
    shown = _reduced(levels(maps))
    shown = shown.repeat(times := max(1, LEAST // max(shown.shape[1:])), 1).repeat(times, 2)
    height, width = shown.shape[1] + 1, shown.shape[2] + 1  # a dark line between two maps
    cells = np.zeros((rows * columns, height, width), np.uint8)
    cells[:count, :-1, :-1] = shown
    whole = cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return Sheet(whole, columns, rows)


def levels(maps: Scores) -> Grades:
    """Grade float32 maps from 0, for what does not respond, on one scale for all of them."""
    positive = np.nan_to_num(np.maximum(maps, 0))
    # A few very strong responses would leave all others dark.
    top = max(float(np.quantile(positive, 0.998)), float(positive.max(initial=0)) / 4, 1e-6)
    return np.rint((positive / top).clip(0, 1) ** 0.7 * (LEVELS - 1)).astype(np.uint8)


def palette() -> list[int]:
    """Return the colour of each grade: red, green and blue of the first, of the second, and so on."""
    return _mixed(np.linspace(0, 1, LEVELS), RAMP).ravel().tolist()


def _mixed(shares: npt.NDArray[np.float64], stops: npt.NDArray[np.float32]) -> Pixels:
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(shares, places, stops[:, i]) for i in range(3)], axis=-1).astype(np.uint8)


def _columns(count: int) -> int:
    """Choose the columns of a sheet that is about square: if possible so many that the last row is full."""
    side = math.ceil(math.sqrt(count))
    return next((one for one in range(side, 5 * side // 4 + 1) if count % one == 0), side)


def _reduced(maps: Grades) -> Grades:
    """Reduce maps to MOST pixels by taking the strongest of each block."""
    block = math.ceil(max(maps.shape[1:]) / MOST)
    if block == 1:
        return maps
    count, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (0, -height % block), (0, -width % block)))
    blocks: Grades = padded.reshape(count, -(-height // block), block, -(-width // block), block).max((2, 4))
    return blocks


def strongest(maps: Scores) -> int:
    """Return the map with the strongest response of float32 [channels, height, width]."""
    return int(np.nan_to_num(maps).max((1, 2)).argmax())


def peak(one: Scores) -> tuple[int, int] | None:
    """Return row and column of the strongest response of float32 [height, width]; None where nothing responds."""
    at = int(np.nan_to_num(one).argmax())
    return divmod(at, one.shape[1]) if one.flat[at] > 0 else None


def filter_image(found: Filter) -> Pixels:
    """Draw a filter, uint8 [H, W, 3]: in colours if it sees the image's, else its slices beside each other."""
    weights = found.weights.astype(np.float64)
    if found.inputs == 3 and len(weights) == 3:
        return np.asarray((128 + weights).clip(0, 255).transpose(1, 2, 0), np.uint8)
    weights = weights.repeat(GAP, 1).repeat(GAP, 2)
    count, height, width = weights.shape
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    drawn = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), np.uint8)
    for index, one in enumerate(weights):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        drawn[top : top + height, left : left + width] = _mixed((one + 127) / 254, SIGNS)
    return drawn


@dataclass(frozen=True)
class ClassMap:
    """Where a network finds evidence for a class.

    Attributes:
        label: the index of the class.
        heat: float32 [H, W] from 0 to 1, of the image's size; 1 is the most evidence for any class.
        places: rows and columns of the network's last map.
    """

    label: int
    heat: Scores
    places: tuple[int, int]


def class_map(maps: Scores, label: int, size: tuple[int, ...]) -> ClassMap:
    """Enlarge the activation map of a class, of float32 [classes, height, width], to an image of `size` (H, W)."""
    evidence = np.maximum(maps[label], 0) / max(float(maps.max()), 1e-6)
    rows, columns = (np.arange(length) * places // length for length, places in zip(size, evidence.shape, strict=True))
    return ClassMap(label, evidence[rows][:, columns], evidence.shape)


def frame(stage: Stage, at: tuple[int, int] | None) -> tuple[int, int, int, int] | None:
    """Return what a position of a stage's map sees of the image: top, left, height and width in pixels."""
    if at is None:
        return None
    (top, bottom), (left, right) = stage.rows[at[0]], stage.columns[at[1]]
    return top, left, bottom - top + 1, right - left + 1
