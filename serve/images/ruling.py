"""Take the lines of ruled and squared paper out of a photo's ink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve.images.filters import close, highest, open_

Floats = npt.NDArray[np.float32]

# All values below were chosen on the train split of benchmarks/drawn_digits.py.
COLUMNS = 24  # in which lines are looked for
STEP = 0.01  # between two slopes that are tried
ACROSS = 0.22  # share of the columns that may lack a line: a digit's own bar is shorter
FAINTEST = 0.03  # contrast (0 to 1) of a line that is worth erasing
STRONGER = 1.5  # ink over a line that has more than this multiple of its contrast stays as it is
THICK = 9  # pixels: more than the thickness of a line; a stroke that crosses one bridges so much


def erase_ruling(contrast: Floats, steepest: float) -> Floats:
    """Erase lines across the whole of float32 [H, W] contrast, 0 to 1, horizontal and vertical ones.

    Args:
        contrast: how much each pixel stands out from the paper.
        steepest: the largest slope of horizontal lines, and of vertical ones from upright, as dy / dx.
    """
    level = _erase(contrast, steepest)
    return np.ascontiguousarray(_erase(np.ascontiguousarray(level.T), steepest).T)


def _erase(contrast: Floats, steepest: float) -> Floats:
    height, width = contrast.shape
    if min(height, width) < 2 * COLUMNS:
        return contrast
    columns = np.linspace(0, width - 1, COLUMNS).astype(int)
    sample = np.pad(contrast[:, columns], ((height // 8, height // 8), (0, 0)))
    missing = round(ACROSS * COLUMNS)
    best, slope, lines = 0.0, 0.0, np.zeros(height, np.float32)
    for tried in np.arange(-steepest, steepest + STEP / 2, STEP):
        # The rows of a sheared image: what a row has in nearly all columns is a line.
        shifts = np.rint(tried * (columns - width / 2)).astype(int).clip(-(height // 8), height // 8)
        at = np.arange(height)[:, None] + height // 8 + shifts
        found = np.partition(sample[at, np.arange(COLUMNS)], missing, axis=1)[:, missing]
        # A line is thin; a stroke along most of the paper is not.
        found = found - open_(found[:, None], (THICK, 1))[:, 0]
        rating = float((found[found > FAINTEST] ** 2).sum())
        if rating > best:
            best, slope, lines = rating, float(tried), found
    if not best:
        return contrast
    shifts = np.rint(slope * (np.arange(width) - width / 2)).astype(int)
    rows = (np.arange(height)[:, None] - shifts).clip(0, height - 1)
    # A line is as dark as its darkest row; its blurred edges go with it.
    line = highest(lines[:, None], (5, 1))[:, 0][rows]
    erased = (line > FAINTEST) & (contrast < STRONGER * line)
    without = np.where(erased, np.float32(0), contrast)
    return np.where(erased, np.minimum(close(without, (THICK, 1)), contrast), contrast)
