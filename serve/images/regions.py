"""Connected regions of a mask and distances inside it, in NumPy (see `filters.py` for the reason)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a mask, in the order of their first pixels.

    Attributes:
        labels: int64 [H, W], 0 where the mask is not, then 1 for the first region and so on.
        areas: their sizes in pixels, int64 [n].
        top, bottom, left, right: their boxes, int64 [n] each; bottom and right are the first row and column outside.
    """

    labels: Ints
    areas: Ints
    top: Ints
    bottom: Ints
    left: Ints
    right: Ints

    def __len__(self) -> int:
        return len(self.areas)

    def only(self, chosen: Mask) -> Mask:
        """Return the mask, bool [H, W], of the regions that bool [n] chooses."""
        found: Mask = np.append(False, chosen)[self.labels]
        return found


def regions(mask: Mask) -> Regions:
    """Find the regions of bool [H, W]: pixels that share an edge or a corner belong together.

    The pixels are taken in runs, the unbroken pieces of a row. Runs of neighbouring rows that meet are joined.
    """
    height, width = mask.shape
    row = width + 1  # no run goes over the end of a row: a column without ink follows it
    changes = np.flatnonzero(np.diff(np.pad(mask, ((0, 0), (0, 1))).ravel(), prepend=False, append=False))
    starts, ends = changes[::2], changes[1::2]
    # The runs that a run meets in the row above follow each other.
    first = np.searchsorted(ends + row, starts, "left")
    counts = np.maximum(np.searchsorted(starts + row, ends, "right") - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    above = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    _, numbers = np.unique(_join(len(starts), above, below), return_inverse=True)
    count = int(numbers.max(initial=-1)) + 1
    lengths, rows, columns = ends - starts, starts // row, starts % row
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(numbers + 1, lengths)
    top, left = np.full(count, height), np.full(count, width)
    bottom, right = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(top, numbers, rows)
    np.maximum.at(bottom, numbers, rows + 1)
    np.minimum.at(left, numbers, columns)
    np.maximum.at(right, numbers, columns + lengths)
    areas = np.bincount(numbers, lengths, count).astype(np.int64)
    return Regions(labels, areas, top, bottom, left, right)


def _join(count: int, one: Ints, other: Ints) -> Ints:
    """Find the first of the nodes that the edges from `one` to `other` join to each of `count` nodes: int64 [count]."""
    root = np.arange(count)
    while True:
        a, b = root[one], root[other]
        if np.array_equal(a, b):
            return root
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, further := root[root]):
            root = further


def depth(mask: Mask) -> npt.NDArray[np.float64]:
    """Measure the distance in pixels from each pixel of bool [H, W] to the nearest one outside the mask: [H, W].

    The border counts as inside: a mask without any pixel outside it is infinitely deep.
    """
    squared = np.full(mask.shape, np.inf)
    squared[~mask] = 0
    for axis in (0, 1):
        # From the other axis' distances: the least sum of squares along this one. No further step can be less than
        # the steps alone.
        nearest = squared.copy()
        step = 1
        while step < mask.shape[axis] and step**2 < nearest.max():
            one, other = (slice(step, None), slice(None, -step))
            for to, source in ((one, other), (other, one)):
                at = (to, slice(None)) if axis == 0 else (slice(None), to)
                start = (source, slice(None)) if axis == 0 else (slice(None), source)
                np.minimum(nearest[at], squared[start] + step**2, out=nearest[at])
            step += 1
        squared = nearest
    distance: npt.NDArray[np.float64] = np.sqrt(squared)
    return distance
