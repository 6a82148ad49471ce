"""Weather. Frost is missing: it is made of photos that do not ship with this project."""

import numpy as np
from scipy import ndimage

from train.shifts.corruptions import filters
from train.shifts.corruptions.filters import Image

# Water of a pale turquoise, and mud.
WATER = np.array([175, 238, 238]) / 255
MUD = {3: np.array([63, 42, 20]) / 255, 1: np.array([63]) / 255}
# The weights of red, green and blue in the brightness of a colour.
LUMA = np.array([0.299, 0.587, 0.114])


def brightness(image: Image, _rng: np.random.Generator, added: float) -> Image:
    """Add to the value of each colour, with hue and saturation as they were."""
    value = image.max(2, keepdims=True)
    brighter = (value + added).clip(0, 1)
    return np.asarray(np.where(value > 0, image * brighter / np.where(value > 0, value, 1), brighter))


def fog(image: Image, rng: np.random.Generator, density: float, decay: float, side: int) -> Image:
    """Add a cloud; `side` is that of the map which it is cut from."""
    height, width, _ = image.shape
    cloud = filters.plasma(rng, side, decay)[:height, :width, None]
    brightest = image.max()
    return np.asarray((image + density * cloud) * brightest / (brightest + density))


def snow(
    image: Image,
    rng: np.random.Generator,
    mean: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Image:
    """Let it snow: flakes are noise of a mean and a scale, enlarged, cut off below a threshold, blurred as they fall.

    The image is whitened, `kept` of it remains.
    """
    flakes = filters.zoom(rng.normal(mean, scale, (*image.shape[:2], 1)), zoom)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    flakes = filters.motion(flakes, radius, sigma, rng.uniform(-135, -45))
    grey = image @ LUMA[:, None]
    whitened = kept * image + (1 - kept) * np.maximum(image, grey * 1.5 + 0.5)
    return np.asarray(whitened + flakes + np.rot90(flakes, 2))


def _liquid(
    image: Image, rng: np.random.Generator, mean: float, scale: float, sigma: float, threshold: float
) -> np.ndarray:
    """Draw drops, float [H, W]: smooth noise above a threshold."""
    layer = filters.gaussian(rng.normal(mean, scale, image.shape[:2]), sigma)
    return np.where(layer < threshold, 0, layer)


def mud(
    image: Image, rng: np.random.Generator, mean: float, scale: float, sigma: float, threshold: float, spread: float
) -> Image:
    """Spatter an image with mud, whose drops' edges are blurred by `spread`."""
    drops = _liquid(image, rng, mean, scale, sigma, threshold) > threshold
    cover = filters.gaussian(drops.astype(float), spread)
    cover = np.where(cover < 0.8, 0, cover)[:, :, None]
    return np.asarray(image * (1 - cover) + MUD[image.shape[2]] * cover)


def water(
    image: Image, rng: np.random.Generator, mean: float, scale: float, sigma: float, threshold: float, opacity: float
) -> Image:
    """Spatter an image with water: drops are lit at their edges."""
    liquid = np.floor(_liquid(image, rng, mean, scale, sigma, threshold).clip(0, 1) * 255)
    border = filters.edges_of_bytes(liquid, 50, 150)
    distance = ndimage.distance_transform_edt(~border) if border.any() else np.full(border.shape, 20.0)
    distance = _equalized(np.floor(_box(np.minimum(distance, 20)) + 1e-6))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.rint(_box(ndimage.correlate(distance, relief, mode="mirror").clip(0, 255)))
    light = liquid * lit
    return np.asarray(image + light[:, :, None] / max(light.max(), 1e-12) * opacity * WATER)


def _box(image: np.ndarray) -> np.ndarray:
    """Return the mean of each pixel and its eight neighbours."""
    return np.asarray(ndimage.uniform_filter(image, 3, mode="mirror"))


def _equalized(image: np.ndarray) -> np.ndarray:
    """Spread whole values from 0 to 255 so that each range of them has as many pixels."""
    counts = np.bincount(image.astype(int).ravel(), minlength=256)
    below = counts.cumsum()
    first = counts[counts > 0][0]
    if first == image.size:
        return image
    return np.asarray(np.rint((below - first) * 255 / (image.size - first))[image.astype(int)])
