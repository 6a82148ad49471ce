"""Occlusion maps: cover each spot of an image in turn, and see how much the prediction changes.

The method is that of Zeiler and Fergus, arXiv 1311.2901, section 4.2. It needs logits and probabilities only, and
treats all six networks alike; class activation maps need a last map of several places that is pooled globally. Small
spots tell places apart, and large ones find evidence of which a small spot leaves enough. All spots together cost
COPIES images in a few batches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve.app.inference import Pixels, Prediction, of_first
from serve.engine.batching import Engine

Floats = npt.NDArray[np.float32]

# Of each size of spots: their number along each side of the image, and their side as a share of the image's.
GRIDS = ((7, 0.27), (4, 0.45))
SQUARE = 0.3  # side of the square that a visitor moves, as a share of the image's; style.css has it too
COPIES = sum(count * count for count, _ in GRIDS)


@dataclass(frozen=True)
class OcclusionMap:
    """How much a model's prediction depends on each pixel of an image.

    Attributes:
        prediction: the prediction for the whole image.
        heat: float32 [H, W] from 0 to 1: how much the log-odds of the predicted class drop, on average, when a spot
            around this pixel is covered, relative to the largest such drop.
        probability_drop: the largest share of the predicted class's probability that is lost, from 0 to 1.
        seconds: the time of all runs together.
    """

    prediction: Prediction
    heat: Floats
    probability_drop: float
    seconds: float


async def occlusion_map(engine: Engine, model: str, pixels: Pixels) -> OcclusionMap:
    """Measure where `model` looks in uint8 [H, W, C] for the class that it predicts.

    Raises ApiError, as the engine does.
    """
    start = time.perf_counter()
    images = covered_copies(pixels)
    # In parts that fit the limits on one request, whatever the server's settings are.
    most = min(engine.settings.max_images, engine.settings.max_batch)
    results = [await engine.infer(model, part) for part in np.split(images, range(most, len(images), most))]
    probabilities = np.concatenate([result.probabilities for result in results])
    seconds = time.perf_counter() - start
    prediction = of_first(results[0], seconds)
    heat = heat_map(np.concatenate([result.logits for result in results]), pixels.shape[:2], prediction.best)
    kept = probabilities[:, prediction.best].min() / probabilities[0, prediction.best]
    return OcclusionMap(prediction, heat, float(1 - kept), seconds)


def covered_copies(pixels: Pixels) -> Pixels:
    """Make the images that a heat map needs: uint8 [1 + COPIES, H, W, C], the image itself and its covered copies."""
    return np.concatenate([pixels[None], *(cover(pixels, count, share)[0] for count, share in GRIDS)])


def heat_map(logits: Floats, shape: tuple[int, ...], index: int | None = None) -> Floats:
    """Compute the heat of `OcclusionMap`, float32 [H, W] from 0 to 1.

    Args:
        logits: float32 [1 + COPIES, classes], of `covered_copies` by any model.
        shape: [H, W] of the image.
        index: of the class whose evidence is looked for; None for the predicted one.
    """
    log_odds = _log_odds(logits, int(logits[0].argmax()) if index is None else index)
    drops = np.maximum(log_odds[0] - log_odds[1:], 0)
    heat = np.zeros(shape, np.float32)
    start = 0
    for count, share in GRIDS:
        corners, size = _spots(shape, count, share)
        heat += _spread(drops[start : start + len(corners)], corners, size, shape)
        start += len(corners)
    return heat / np.float32(max(float(heat.max()), 1e-6))


def _log_odds(logits: Floats, index: int) -> Floats:
    """Compute log(p / (1 - p)) of class `index`, float32 [n], from logits: probabilities near 1 are too coarse."""
    others = np.delete(logits, index, axis=1)
    most = others.max(axis=1)
    return np.asarray(logits[:, index] - most - np.log(np.exp(others - most[:, None]).sum(axis=1)), np.float32)


def cover(pixels: Pixels, count: int, share: float) -> tuple[Pixels, list[tuple[int, int]], tuple[int, int]]:
    """Cover one spot in each of count * count copies.

    A digit is covered with its black background. A photo is blurred beyond recognition at the spot: a box of one
    colour would be an object of its own.

    Returns:
        The copies, uint8 [count * count, H, W, C], the top left corners (y, x) of the spots, and their size (H, W).
    """
    plain = _plain(pixels)
    corners, size = _spots(pixels.shape[:2], count, share)
    covered = np.repeat(pixels[None], len(corners), axis=0)
    for image, (y, x) in zip(covered, corners, strict=True):
        image[y : y + size[0], x : x + size[1]] = plain[y : y + size[0], x : x + size[1]]
    return covered, corners, size


def _spots(shape: tuple[int, ...], count: int, share: float) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Place count * count spots on an image of `shape` [H, W]: their top left corners (y, x) and their size (H, W)."""
    height, width = shape
    size = max(2, round(share * height)), max(2, round(share * width))
    corners = [
        (round(y), round(x))
        for y in np.linspace(0, height - size[0], count)
        for x in np.linspace(0, width - size[1], count)
    ]
    return corners, size


def cover_square(pixels: Pixels, x: float, y: float, share: float = SQUARE) -> Pixels:
    """Cover the square around (x, y), shares of width and height, in a copy of uint8 [H, W, C], as `cover` does."""
    height, width, _ = pixels.shape
    half = share / 2
    rows = slice(max(0, round((y - half) * height)), round((y + half) * height))
    columns = slice(max(0, round((x - half) * width)), round((x + half) * width))
    covered = pixels.copy()
    covered[rows, columns] = _plain(pixels)[rows, columns]
    return covered


def _plain(pixels: Pixels) -> Pixels:
    if pixels.shape[-1] == 1:
        return np.zeros_like(pixels)
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(pixels.shape[0] / 4)))


def _spread(drops: Floats, corners: list[tuple[int, int]], size: tuple[int, int], shape: tuple[int, ...]) -> Floats:
    """Average the drops of the spots around each pixel, near ones most: float32 of `shape` [H, W].

    The weights are Gaussians: with equal ones, the map would show the edges of the spots.
    """
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    total = np.zeros(shape, np.float32)
    weights = np.full(shape, 1e-6, np.float32)
    for drop, (y, x) in zip(drops, corners, strict=True):
        down = (rows - y - (size[0] - 1) / 2) / (size[0] / 2.5)
        across = (columns - x - (size[1] - 1) / 2) / (size[1] / 2.5)
        weight = np.exp(-(down**2 + across**2) / 2).astype(np.float32)
        total += drop * weight
        weights += weight
    return total / weights


def overlay(pixels: Pixels, heat: Floats, side: int = 336) -> Pixels:
    """Lay the heat over the image in grey: uint8 [H, W, 3], the longer side of `side` pixels."""
    scale = side / max(pixels.shape[:2])
    size = round(scale * pixels.shape[1]), round(scale * pixels.shape[0])
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)[..., None]
    warm = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC), np.float32).clip(0, 1)
    # Dark red through orange to yellow: hotter is lighter, which can be read without colour vision.
    stops = np.array([[90, 0, 60], [200, 40, 30], [250, 140, 20], [255, 230, 90]], np.float32)
    colour = np.stack([np.interp(warm, np.linspace(0, 1, 4), stops[:, i]) for i in range(3)], axis=-1)
    weight = (0.75 * warm**0.8)[..., None]
    return ((0.8 * grey + 25) * (1 - weight) + colour * weight).clip(0, 255).astype(np.uint8)
