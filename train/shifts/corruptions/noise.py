"""Noise. All corruptions take an image, float [H, W, C] from 0 to 1, and may leave that range."""

import numpy as np

from train.shifts.corruptions.filters import Image


def gaussian_noise(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Add noise of the same strength to all pixels, as of a sensor in low light."""
    return image + rng.normal(0, scale, image.shape)


def shot_noise(image: Image, rng: np.random.Generator, photons: float) -> Image:
    """Count photons, so many for a white pixel."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Image, rng: np.random.Generator, amount: float) -> Image:
    """Set a share of the values to black or white."""
    flipped = rng.random(image.shape) <= amount
    white = rng.random(image.shape) <= 0.5
    return np.where(flipped, white, image)


def speckle_noise(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Add noise in proportion to the pixels' brightness."""
    return image + image * rng.normal(0, scale, image.shape)
