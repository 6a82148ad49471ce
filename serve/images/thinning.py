"""Thin strokes to their centre line.

SciPy has no thinning. scikit-image's `skeletonize` follows a table that differs from Zhang and Suen's rule in 25 of 256
neighbourhoods. In benchmarks/drawn_digits.py an emulation of that table gave 493 right of 500 drawings and 494 of 500
photos, against 494 and 494 here. This function takes 1 ms of CPU time for a digit: too little to gain for one more
package.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


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
