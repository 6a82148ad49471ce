"""What is done to an image after it was taken."""

from io import BytesIO

import numpy as np
from PIL import Image as Pillow
from scipy import ndimage

from train.shifts.corruptions.filters import Image


def contrast(image: Image, _rng: np.random.Generator, kept: float) -> Image:
    """Keep a share of each channel's contrast."""
    means = image.mean((0, 1), keepdims=True)
    return np.asarray((image - means) * kept + means)


def saturate(image: Image, _rng: np.random.Generator, factor: float, added: float) -> Image:
    """Change the saturation of each colour, not its hue and value; grey counts as a red without saturation."""
    value = image.max(2, keepdims=True)
    depth = value - image
    saturation = depth.max(2, keepdims=True) / np.where(value > 0, value, 1)
    wanted = (saturation * factor + added).clip(0, 1)
    grey = value * wanted * np.array([0, 1, 1])
    changed: Image = np.where(
        saturation > 0, value - depth * wanted / np.where(saturation > 0, saturation, 1), value - grey
    )
    return changed


def jpeg_compression(image: Image, _rng: np.random.Generator, quality: int) -> Image:
    """Compress an image as JPEG, of a quality from 0 to 100."""
    buffer = BytesIO()
    Pillow.fromarray(_pixels(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Pillow.open(buffer)) / 255


def pixelate(image: Image, _rng: np.random.Generator, share: float) -> Image:
    """Reduce an image to a share of its size, and enlarge it again."""
    height, width, _ = image.shape
    small = Pillow.fromarray(_pixels(image)).resize((int(width * share), int(height * share)), Pillow.Resampling.BOX)
    return np.asarray(small.resize((width, height), Pillow.Resampling.BOX)) / 255


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(np.rint(image * 255).astype(np.uint8))


def elastic_transform(image: Image, rng: np.random.Generator, stretch: float, sigma: float, affine: float) -> Image:
    """Distort an image as rubber.

    Args:
        image: float [H, W, C].
        rng: the source of randomness.
        stretch: how far pixels are moved before the moves are smoothed; also below: in shares of the side.
        sigma: of that smoothing.
        affine: how far the corners of an affine map are moved.
    """
    side = len(image)
    centre, reach = side // 2, side // 3
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-affine * side, affine * side, corners.shape)
    # From where each pixel comes: the map that takes the moved corners back.
    matrix = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    rows, columns = np.mgrid[:side, :side]
    x, y = np.moveaxis(np.stack([columns, rows, np.ones_like(rows)], 2) @ matrix, 2, 0)
    warped = _sampled(image, y, x, "mirror")
    right, down = (
        ndimage.gaussian_filter(rng.uniform(-1, 1, (side, side)), sigma * side, mode="reflect", truncate=3)
        * stretch
        * side
        for _ in range(2)
    )
    return _sampled(warped, rows + down, columns + right, "reflect")


def _sampled(image: Image, y: np.ndarray, x: np.ndarray, mode: str) -> Image:
    channels = [
        ndimage.map_coordinates(image[:, :, channel], (y, x), order=1, mode=mode) for channel in range(image.shape[2])
    ]
    return np.stack(channels, 2)
