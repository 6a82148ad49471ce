"""Take the lines of ruled and squared paper out of a photo's ink."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.images.filters import close, highest, open_

Floats = npt.NDArray[np.float32]

# All values below were chosen on the train split of benchmarks/drawn_digits.py.
SAMPLES = 24  # columns in which horizontal lines are looked for, and rows for vertical ones
STEP = 0.01  # between two slopes that are tried
ACROSS = 0.22  # share of the samples that may lack a line: a digit's own bar is shorter
FAINTEST = 0.03  # contrast (0 to 1) of a line that is worth erasing
STRONGER = 1.5  # ink over a line that has more than this multiple of its contrast stays as it is
FEWEST = 3  # parallel lines that are a ruling
MARGIN = 1.3  # times as strong as these: at most so strong is a margin
THICK = 9  # pixels: more than the thickness of a line; a stroke that crosses one bridges so much


@dataclass(frozen=True, eq=False)
class _Lines:
    """Parallel lines.

    Attributes:
        slope: dy / dx.
        strength: float32 [H], the contrast of the line through each row's middle, or 0.
        count: how many lines there are.
    """

    slope: float
    strength: Floats
    count: int

    @property
    def median(self) -> float:
        """Their usual strength."""
        return float(np.median(self.strength[self.strength > 0]))


def erase_ruling(contrast: Floats, steepest: float) -> Floats:
    """Erase lines across the whole of float32 [H, W] contrast, 0 to 1, horizontal and vertical ones.

    Args:
        contrast: how much each pixel stands out from the paper.
        steepest: the largest slope of horizontal lines, and of vertical ones from upright.
    """
    if min(contrast.shape) < 2 * SAMPLES:
        return contrast
    across, down = _lines(contrast, steepest), _lines(contrast.T, steepest)
    lines = np.zeros_like(contrast)  # where lines cross, both colour the paper
    if _is_ruling(across, down):
        lines += _paint(across, contrast.shape)
    if _is_ruling(down, across):
        lines += _paint(down, contrast.T.shape).T
    erased = (lines > FAINTEST) & (contrast < STRONGER * lines)
    if not erased.any():
        return contrast
    without = np.where(erased, np.float32(0), contrast)
    bridged = np.maximum(close(without, (THICK, 1)), close(without, (1, THICK)))
    return np.where(erased, np.minimum(bridged, contrast), contrast)


def _is_ruling(lines: _Lines, others: _Lines) -> bool:
    """Tell a ruling, or its margin, from a digit's own stroke; `others` are the lines in the other direction."""
    if lines.count >= FEWEST:
        return True
    return lines.count > 0 and others.count >= FEWEST and lines.median <= MARGIN * others.median


def _lines(contrast: Floats, steepest: float) -> _Lines:
    """Find the horizontal lines of [H, W] contrast."""
    height, width = contrast.shape
    columns = np.linspace(0, width - 1, SAMPLES).astype(int)
    margin = height // 8
    sample = np.pad(highest(contrast[:, columns], (3, 1)), ((margin, margin), (0, 0)))
    missing = round(ACROSS * SAMPLES)
    best, slope, lines = 0.0, 0.0, np.zeros(height, np.float32)
    for tried in np.arange(-steepest, steepest + STEP / 2, STEP):
        # The rows of a sheared image: what a row has in nearly all columns is a line.
        shifts = np.rint(tried * (columns - width / 2)).astype(int).clip(-margin, margin)
        at = np.arange(height)[:, None] + margin + shifts
        found = np.partition(sample[at, np.arange(SAMPLES)], missing, axis=1)[:, missing]
        # A line is thin; a stroke along most of the paper is not.
        found = found - open_(found[:, None], (THICK, 1))[:, 0]
        found[found <= FAINTEST] = 0
        rating = float((found**2).sum())
        if rating > best:
            best, slope, lines = rating, float(tried), found
    return _Lines(slope, lines, int(np.count_nonzero(np.diff(lines > 0, prepend=False) & (lines > 0))))


def _paint(lines: _Lines, shape: tuple[int, ...]) -> Floats:
    """Draw horizontal lines into a new image: float32 of `shape` [H, W], 0 where there is none."""
    height, width = shape
    shifts = np.rint(lines.slope * (np.arange(width) - width / 2)).astype(int)
    rows = (np.arange(height)[:, None] - shifts).clip(0, height - 1)
    # A line is as dark as its darkest row; its blurred edges go with it.
    return np.asarray(highest(lines.strength[:, None], (5, 1))[:, 0][rows], np.float32)
