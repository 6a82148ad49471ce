"""What several corruptions are made of: blurs, zooms, clouds, edges."""

import math
from functools import cache

import numpy as np
from scipy import ndimage

Image = np.ndarray


def gaussian(image: Image, sigma: float) -> Image:
    """Blur an image, float [H, W] or [H, W, C], as scikit-image's `filters.gaussian` does by default."""
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode="nearest", truncate=4))


def motion(image: Image, radius: int, sigma: float, angle: float) -> Image:
    """Blur an image in one direction, as ImageMagick's `motion_blur` does.

    Args:
        image: float [H, W, C].
        radius: how far the blur may reach, in half pixels.
        sigma: of the half Gaussian that weighs the pixels on the way, in pixels.
        angle: of the way, in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = (np.arange(side) for side in image.shape[:2])
    result = np.zeros(image.shape)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        dy = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        dx = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        y, x = (rows + dy).clip(0, len(rows) - 1), (columns + dx).clip(0, len(columns) - 1)
        result += weight * image[y][:, x]
    return result


@cache
def zoom_matrix(side: int, factor: float) -> np.ndarray:
    """Return what enlarges a column of `side` pixels by a factor and keeps its middle, float [side, side].

    Bilinear interpolation acts on rows and columns alone: `m @ image @ m.T` is scipy's `zoom` of the whole image.
    """
    cropped = math.ceil(side / factor)
    top = (side - cropped) // 2
    enlarged = ndimage.zoom(np.eye(side)[top : top + cropped], (factor, 1), order=1)
    trim = (len(enlarged) - side) // 2
    return np.asarray(enlarged[trim : trim + side])


def zoom(image: Image, factor: float) -> Image:
    """Enlarge an image, float [H, W, C] with H = W, by a factor; its size remains."""
    matrix = zoom_matrix(len(image), factor)
    return np.asarray(np.einsum("yi,xj,ijc->yxc", matrix, matrix, image, optimize=True))


def disk(radius: float, alias_blur: float) -> np.ndarray:
    """Return the kernel of a lens that is out of focus, float [17, 17] for a radius of up to 8 pixels."""
    y, x = np.mgrid[-8:9, -8:9]
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    edge = math.exp(-1 / (2 * alias_blur**2))
    smooth = np.array([edge, 1, edge]) / (1 + 2 * edge)
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, smooth, axis, mode="mirror")
    return np.asarray(kernel / kernel.sum())


def plasma(rng: np.random.Generator, side: int, decay: float) -> np.ndarray:
    """Draw a random cloud, float [side, side] from 0 to 1, by the diamond-square algorithm.

    Args:
        rng: the source of randomness.
        side: in pixels, a power of two.
        decay: by how much finer structures are fainter, from scale to scale.
    """
    cloud = np.zeros((side, side))
    step, amplitude = side, 100.0

    def scattered(total: np.ndarray) -> np.ndarray:
        return total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        cloud[half::step, half::step] = scattered(rows + np.roll(rows, -1, 1))
        middles, corners = cloud[half::step, half::step], cloud[::step, ::step]
        beside = middles + np.roll(middles, 1, 0)
        cloud[::step, half::step] = scattered(beside + corners + np.roll(corners, -1, 1))
        above = middles + np.roll(middles, 1, 1)
        cloud[half::step, ::step] = scattered(above + corners + np.roll(corners, -1, 0))
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    return np.asarray(cloud / cloud.max())


def edges(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Find edges by Canny's method as scikit-image does, bool [H, W].

    An edge is where the gradient is the largest across its direction, above `high`, or above `low` and connected with
    such a place.

    Args:
        image: float [H, W], already smoothed.
        low: of the gradient's length by Sobel's filter; also below.
        high: the same, for where an edge begins.
    """
    dy, dx = ndimage.sobel(image, 0), ndimage.sobel(image, 1)
    length = np.hypot(dy, dx)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    # One pixel further along the gradient, in the larger of its two components.
    scale = np.where(length > 0, 1 / np.maximum(np.abs(dy), np.abs(dx)).clip(1e-12), 0)
    ahead, behind = (
        ndimage.map_coordinates(length, (rows + sign * dy * scale, columns + sign * dx * scale), order=1)
        for sign in (1, -1)
    )
    inner = ndimage.binary_erosion(np.ones(image.shape, bool))
    crest = inner & (length >= ahead) & (length >= behind) & (length > 0)
    return _connected(crest & (length >= low), length >= high)


def edges_of_bytes(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Find edges by Canny's method as OpenCV does, bool [H, W].

    The gradient's length is the sum of both components, and its direction one of four.

    Args:
        image: float [H, W] from 0 to 255, not smoothed.
        low: as in `edges`.
        high: as in `edges`.
    """
    dy, dx = (ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1))
    length = np.abs(dy) + np.abs(dx)
    height, width = image.shape
    padded = np.pad(length, 1)

    def at(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    flat = math.tan(math.pi / 8)
    horizontal = np.abs(dy) < np.abs(dx) * flat
    vertical = np.abs(dy) > np.abs(dx) * (flat + 2)
    diagonal = np.where(
        (dx < 0) == (dy < 0),
        (length > at(-1, -1)) & (length > at(1, 1)),
        (length > at(-1, 1)) & (length > at(1, -1)),
    )
    crest = np.where(
        horizontal,
        (length > at(0, -1)) & (length >= at(0, 1)),
        np.where(vertical, (length > at(-1, 0)) & (length >= at(1, 0)), diagonal),
    )
    return _connected(crest & (length > low), length > high)


def _connected(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Select the connected areas of `weak` that hold a pixel of `strong`, bool [H, W] all."""
    areas, _ = ndimage.label(weak, np.ones((3, 3)))
    return np.asarray(weak & np.isin(areas, areas[weak & strong]))
