"""Blur."""

import numpy as np
from scipy import ndimage

from train.shifts.corruptions import filters
from train.shifts.corruptions.filters import Image


def defocus_blur(image: Image, _rng: np.random.Generator, radius: float, alias_blur: float) -> Image:
    """Put the lens out of focus."""
    kernel = filters.disk(radius, alias_blur)
    return np.asarray(ndimage.correlate(image, kernel[:, :, None], mode="mirror"))


def gaussian_blur(image: Image, _rng: np.random.Generator, sigma: float) -> Image:
    """Blur with a Gaussian."""
    return filters.gaussian(image, sigma)


def glass_blur(
    image: Image, rng: np.random.Generator, sigma: float, reach: int, rounds: int, share: float = 1
) -> Image:
    """Look through frosted glass: pixels change places with near ones.

    Args:
        image: float [H, W, C].
        rng: the source of randomness.
        sigma: of the blur before and after.
        reach: how far a pixel may move.
        rounds: how often each one may.
        share: of the pixels that move in a round.
    """
    side, _, channels = image.shape
    pixels = (filters.gaussian(image, sigma) * 255).astype(np.uint8)
    places = np.arange(side * side).tolist()
    # In the code that CIFAR-10-C was made with, a colour pixel is overwritten, not swapped: rows of an array are views.
    swap = channels == 1
    span = range(side - reach, reach, -1)
    for _ in range(rounds):
        count = len(span) ** 2
        offsets = rng.integers(-reach, reach, (count, 2)).tolist()
        moves = (rng.random(count) < share).tolist()
        targets = (y * side + x for y in span for x in span)
        for place, (dx, dy), moved in zip(targets, offsets, moves, strict=True):
            if moved:
                other = place + dy * side + dx
                if swap:
                    places[place], places[other] = places[other], places[place]
                else:
                    places[place] = places[other]
    shuffled = pixels.reshape(side * side, channels)[places].reshape(image.shape)
    return filters.gaussian(shuffled / 255, sigma)


def motion_blur(image: Image, rng: np.random.Generator, radius: int, sigma: float) -> Image:
    """Move the camera, up to 45 degrees from the horizontal."""
    return filters.motion(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Image, _rng: np.random.Generator, last: float) -> Image:
    """Move towards the subject: the mean of the image enlarged by 1.00, 1.01, 1.02 ... up to below `last`."""
    factors = np.arange(1, last, 0.01)
    total = image + sum(filters.zoom(image, float(factor)) for factor in factors)
    return np.asarray(total / (len(factors) + 1))
