"""MNIST's digits as strokes: their centre lines, a hand's unsteadiness, a round brush."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from skimage.morphology import skeletonize

Strokes = list[np.ndarray]


def strokes_of(digit: np.ndarray) -> Strokes:
    """Centre lines of uint8 [28, 28] as polylines of (x, y), in a box from -0.5 to 0.5 on its longest side."""
    large = np.asarray(Image.fromarray(digit).resize((140, 140), Image.Resampling.BICUBIC))
    line = skeletonize(large > 110)
    lines = [smooth(path) for path in trace(line)]
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1.0)
    return [(path - (low + high) / 2) / span for path in lines]


def trace(line: np.ndarray) -> list[np.ndarray]:
    """Walk a one-pixel line: from ends first, then what is left of loops, until every pixel has been passed."""
    left = {(int(x), int(y)) for y, x in np.argwhere(line)}
    everything = set(left)
    around = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]

    def near(point: tuple[int, int], pool: set[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(point[0] + dx, point[1] + dy) for dx, dy in around if (point[0] + dx, point[1] + dy) in pool]

    paths = []
    while left:
        start = min(left, key=lambda point: (len(near(point, left)), point))
        # Begin and end on pixels that were already passed, so that branches stay joined.
        path = near(start, everything - left)[:1]
        point = start
        while True:
            path.append(point)
            left.discard(point)
            following = near(point, left)
            if not following:
                path.extend(near(point, everything - left - set(path[-3:]))[:1])
                break
            point = following[0]
        paths.append(np.array(path, float))
    return paths


def smooth(path: np.ndarray) -> np.ndarray:
    """A polyline without its pixel steps."""
    if len(path) < 7:
        return path
    padded = np.concatenate([path[:1].repeat(2, 0), path, path[-1:].repeat(2, 0)])
    return np.stack([np.convolve(padded[:, axis], np.ones(5) / 5, mode="valid") for axis in (0, 1)], axis=1)


def jitter(strokes: Strokes, rng: np.random.Generator, amount: float) -> Strokes:
    """A hand's unsteadiness: slow waves along each stroke, `amount` of the digit's size in standard deviation."""
    shaken = []
    for path in strokes:
        along = np.linspace(0, 1, len(path))[:, None]
        wave = sum(
            rng.normal(size=2) * np.sin(2 * np.pi * (k * along + rng.random(2))) / np.sqrt(k) for k in (0.5, 1, 2, 3)
        )
        shaken.append(path + amount * wave)
    return shaken


def draw(strokes: Strokes, size: float, centre: np.ndarray, width: float, canvas: int, *, over: int = 3) -> Image.Image:
    """White ink on black, antialiased, with a round brush."""
    picture = Image.new("L", (canvas * over, canvas * over))
    pen = ImageDraw.Draw(picture)
    radius = width * over / 2
    for path in strokes:
        points = (path * size + centre) * over
        pen.line([tuple(p) for p in points], fill=255, width=max(1, round(width * over)))
        for x, y in points:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return picture.resize((canvas, canvas), Image.Resampling.BOX)
