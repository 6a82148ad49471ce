"""Occlusion maps: cover each spot of an image in turn, and see how much the prediction changes.

The method is that of Zeiler and Fergus, arXiv 1311.2901, section 4.2. It needs logits and probabilities only, which is
all that the ONNX files return, and treats all six networks alike; class activation maps would need another output, and
VGG16's dense head has none. It costs GRID * GRID images in a few batches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.app.inference import Pixels, Prediction
from serve.engine.batching import Engine

Floats = npt.NDArray[np.float32]

GRID = 9  # spots along each side
PATCH = 0.27  # side of a covered spot, as a share of the image's


@dataclass(frozen=True)
class OcclusionMap:
    """How much a model's prediction depends on each pixel of an image.

    Attributes:
        prediction: the prediction for the whole image.
        heat: float32 [H, W] from 0 to 1: how much the log-odds of the predicted class drop, on average, when a covered
            spot includes this pixel, relative to the largest such drop.
        log_odds_drop: the largest drop of these log-odds, in natural logarithms. If a model is sure, it can be large
            although the probability hardly changes.
        probability_drop: the largest share of the predicted class's probability that is lost, from 0 to 1.
        seconds: the time of all runs together.
    """

    prediction: Prediction
    heat: Floats
    log_odds_drop: float
    probability_drop: float
    seconds: float


async def occlusion_map(engine: Engine, model: str, pixels: Pixels) -> OcclusionMap:
    """Measure where `model` looks in uint8 [H, W, C] for the class that it predicts.

    Raises ApiError, as the engine does.
    """
    start = time.perf_counter()
    covered, corners, side = cover(pixels)
    images = np.concatenate([pixels[None], covered])
    # In parts that fit the limits on one request, whatever the server's settings are.
    most = min(engine.settings.max_images, engine.settings.max_batch)
    results = [await engine.infer(model, part) for part in np.split(images, range(most, len(images), most))]
    probabilities = np.concatenate([result.probabilities for result in results])
    seconds = time.perf_counter() - start
    prediction = Prediction(model, results[0].model.labels, probabilities[0], seconds)
    log_odds = _log_odds(np.concatenate([result.logits for result in results]), prediction.best)
    drops = np.maximum(log_odds[0] - log_odds[1:], 0)
    heat = _spread(drops, corners, side, pixels.shape[:2])
    kept = probabilities[:, prediction.best].min() / probabilities[0, prediction.best]
    return OcclusionMap(prediction, heat, float(drops.max()), float(1 - kept), seconds)


def _log_odds(logits: Floats, index: int) -> Floats:
    """Compute log(p / (1 - p)) of class `index`, float32 [n], from logits: probabilities near 1 are too coarse."""
    others = np.delete(logits, index, axis=1)
    most = others.max(axis=1)
    return np.asarray(logits[:, index] - most - np.log(np.exp(others - most[:, None]).sum(axis=1)), np.float32)


def cover(pixels: Pixels) -> tuple[Pixels, list[tuple[int, int]], int]:
    """Cover one spot in each of GRID * GRID copies.

    A digit is covered with its black background. A photo is blurred beyond recognition at the spot: a box of one
    colour would be an object of its own.

    Returns:
        The copies, uint8 [GRID * GRID, H, W, C], the top left corners (y, x) of the spots, and their side.
    """
    height, width, channels = pixels.shape
    side = max(2, round(PATCH * height))
    if channels == 1:
        plain = np.zeros_like(pixels)
    else:
        plain = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(height / 4)))
    corners = [
        (round(y), round(x)) for y in np.linspace(0, height - side, GRID) for x in np.linspace(0, width - side, GRID)
    ]
    covered = np.repeat(pixels[None], len(corners), axis=0)
    for image, (y, x) in zip(covered, corners, strict=True):
        image[y : y + side, x : x + side] = plain[y : y + side, x : x + side]
    return covered, corners, side


def _spread(drops: Floats, corners: list[tuple[int, int]], side: int, shape: tuple[int, ...]) -> Floats:
    """Average the drops of the spots that cover each pixel, scaled to 1 at most: float32 of `shape` [H, W]."""
    total = np.zeros(shape, np.float32)
    count = np.zeros(shape, np.float32)
    for drop, (y, x) in zip(drops, corners, strict=True):
        total[y : y + side, x : x + side] += drop
        count[y : y + side, x : x + side] += 1
    heat = total / np.maximum(count, 1)
    return np.asarray(heat / max(float(heat.max()), 1e-6), np.float32)


def overlay(pixels: Pixels, heat: Floats, size: int = 336) -> Pixels:
    """Lay the heat over the image in grey: uint8 [size, size, 3]."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    grey = np.asarray(image.convert("L").resize((size, size), Image.Resampling.NEAREST), np.float32)[..., None]
    warm = np.asarray(Image.fromarray(heat).resize((size, size), Image.Resampling.BICUBIC), np.float32).clip(0, 1)
    # Dark red through orange to yellow: hotter is lighter, which can be read without colour vision.
    stops = np.array([[90, 0, 60], [200, 40, 30], [250, 140, 20], [255, 230, 90]], np.float32)
    colour = np.stack([np.interp(warm, np.linspace(0, 1, 4), stops[:, i]) for i in range(3)], axis=-1)
    weight = (0.75 * warm**0.8)[..., None]
    return ((0.8 * grey + 25) * (1 - weight) + colour * weight).clip(0, 255).astype(np.uint8)
