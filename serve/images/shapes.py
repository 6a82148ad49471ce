"""Shapes in a black-and-white picture: its connected parts, and its thinned centre line. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """One connected part: the indices of its pixels. `bottom` and `right` are the first row and column after it."""

    rows: Indices
    columns: Indices
    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return len(self.rows)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def components(mask: Mask) -> list[Part]:
    """Find the 8-connected parts of bool [H, W], largest first.

    Works on runs of pixels, row by row with union-find: a drawing has a few runs a row, so plain Python is quick
    enough.
    """
    parent: list[int] = []
    runs: list[tuple[int, int, int]] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    previous: list[int] = []
    for row in np.flatnonzero(mask.any(axis=1)):
        starts, ends = np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1)
        above = [i for i in previous if runs[i][0] == row - 1]
        previous = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            this = len(runs)
            runs.append((int(row), start, end))
            parent.append(this)
            previous.append(this)
            for other in above:
                if runs[other][1] <= end and runs[other][2] >= start:
                    parent[root(other)] = root(this)
    members: dict[int, list[tuple[int, int, int]]] = {}
    for i, run in enumerate(runs):
        members.setdefault(root(i), []).append(run)
    return sorted((_part(part) for part in members.values()), key=lambda part: -part.area)


def _part(runs: list[tuple[int, int, int]]) -> Part:
    rows = np.concatenate([np.full(end - start, row) for row, start, end in runs])
    columns = np.concatenate([np.arange(start, end) for _, start, end in runs])
    return Part(rows, columns, int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def thin(mask: Mask) -> Mask:
    """Thin bool [H, W] to its one-pixel centre line, by Zhang and Suen's parallel algorithm (CACM 27(3), 1984)."""
    image = np.pad(mask, 1).astype(np.uint8)
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            n, ne, e, se = image[:-2, 1:-1], image[:-2, 2:], image[1:-1, 2:], image[2:, 2:]
            s, sw, w, nw = image[2:, 1:-1], image[2:, :-2], image[1:-1, :-2], image[:-2, :-2]
            around = (n, ne, e, se, s, sw, w, nw, n)
            neighbours = n + ne + e + se + s + sw + w + nw
            turns = sum((a < b).astype(np.uint8) for a, b in pairwise(around))
            corner = (n & e & s) | (e & s & w) if first else (n & e & w) | (n & s & w)
            inside = image[1:-1, 1:-1]
            remove = (inside == 1) & (neighbours >= 2) & (neighbours <= 6) & (turns == 1) & (corner == 0)
            if remove.any():
                inside[remove] = 0
                changed = True
    return image[1:-1, 1:-1].astype(bool)


def inner_distance(mask: Mask) -> npt.NDArray[np.float32]:
    """Compute each pixel's Euclidean distance to the nearest one outside bool [H, W], 0 outside: float32 [H, W].

    First along the columns, then the lower envelope of parabolas along the rows (Felzenszwalb and Huttenlocher, 2012),
    the latter by trying all: the masks are about a hundred pixels wide.
    """
    height, width = mask.shape
    index = np.arange(height, dtype=np.float32)[:, None]
    above = np.maximum.accumulate(np.where(mask, np.float32(-1), index), axis=0)
    below = np.minimum.accumulate(np.where(mask, np.float32(height), index)[::-1], axis=0)[::-1]
    vertical = np.minimum(index - above, below - index) ** 2
    x = np.arange(width, dtype=np.float32)
    squared = (vertical[:, None, :] + (x[:, None] - x[None, :]) ** 2).min(axis=-1)
    return np.asarray(np.sqrt(squared), np.float32)
