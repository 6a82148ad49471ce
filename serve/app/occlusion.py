"""Where a model looks, by occlusion: each spot of the picture is covered in turn, and the model is asked again.

The exported models give logits and probabilities only, so a map from inside the network (class activation) would need
another output, and VGG16's dense head has none to give. Occlusion needs nothing but answers, measures all six
networks alike, and costs GRID * GRID runs in a few batches (Zeiler and Fergus, arXiv 1311.2901, section 4.2).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.app.answer import Answer, Pixels
from serve.engine.batching import Engine

Floats = npt.NDArray[np.float32]

GRID = 9  # spots along each side
PATCH = 0.27  # side of the cover, as a share of the picture's


@dataclass(frozen=True)
class OcclusionMap:
    """How much a model's answer depends on each place of a picture.

    Attributes:
        heat: float32 [H, W] from 0 to 1: by how much the answer's log-odds drop, on average, when a cover lies on this
            place, relative to where they drop most.
        log_odds_drop: the largest drop of the answer's log-odds, in natural logarithms. Where a model is sure, it can
            be large while the probability hardly moves.
        probability_drop: the largest share of the answer's probability that is lost, from 0 to 1.
        seconds: what all runs took together.
    """

    answer: Answer
    heat: Floats
    log_odds_drop: float
    probability_drop: float
    seconds: float


async def occlusion_map(engine: Engine, model: str, pixels: Pixels) -> OcclusionMap:
    """Measure where `model` looks in uint8 [H, W, C] for the class that it names. Raises ApiError, as the engine
    does.
    """
    start = time.perf_counter()
    covered, corners, side = cover(pixels)
    images = np.concatenate([pixels[None], covered])
    # In parts that one request may hold, so that the queue takes them however it is set.
    most = min(engine.settings.max_images, engine.settings.max_batch)
    results = [await engine.infer(model, part) for part in np.split(images, range(most, len(images), most))]
    probabilities = np.concatenate([result.probabilities for result in results])
    seconds = time.perf_counter() - start
    answer = Answer(model, results[0].model.labels, probabilities[0], seconds)
    log_odds = _log_odds(np.concatenate([result.logits for result in results]), answer.best)
    drops = np.maximum(log_odds[0] - log_odds[1:], 0)
    heat = _spread(drops, corners, side, pixels.shape[:2])
    kept = probabilities[:, answer.best].min() / probabilities[0, answer.best]
    return OcclusionMap(answer, heat, float(drops.max()), float(1 - kept), seconds)


def _log_odds(logits: Floats, index: int) -> Floats:
    """Compute log(p / (1 - p)) of class `index`, float32 [n]. From logits: probabilities near 1 are too coarse."""
    others = np.delete(logits, index, axis=1)
    most = others.max(axis=1)
    return np.asarray(logits[:, index] - most - np.log(np.exp(others - most[:, None]).sum(axis=1)), np.float32)


def cover(pixels: Pixels) -> tuple[Pixels, list[tuple[int, int]], int]:
    """Cover one spot in each of GRID * GRID copies.

    Returns the copies, uint8 [GRID * GRID, H, W, C], the spots' top left corners (y, x), and their side.

    A digit is covered with its background, black; in a photo the spot is blurred beyond recognition, because a box of
    one colour would be an object of its own.
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
    """Lay the heat over the picture in grey: uint8 [size, size, 3]."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    grey = np.asarray(image.convert("L").resize((size, size), Image.Resampling.NEAREST), np.float32)[..., None]
    warm = np.asarray(Image.fromarray(heat).resize((size, size), Image.Resampling.BICUBIC), np.float32).clip(0, 1)
    # Dark red through orange to yellow: lighter means hotter, so it can be read without colour vision too.
    stops = np.array([[90, 0, 60], [200, 40, 30], [250, 140, 20], [255, 230, 90]], np.float32)
    colour = np.stack([np.interp(warm, np.linspace(0, 1, 4), stops[:, i]) for i in range(3)], axis=-1)
    weight = (0.75 * warm**0.8)[..., None]
    return ((0.8 * grey + 25) * (1 - weight) + colour * weight).clip(0, 255).astype(np.uint8)
