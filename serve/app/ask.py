"""The app's questions to the engine: which models are ready, and what they say of a picture."""

from __future__ import annotations

import asyncio
import base64
import time
from functools import partial
from pathlib import Path

from serve.app.answer import Answer, Pixels
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo
from serve.errors import ApiError, BadImage
from serve.images import digits
from serve.images.decoder import Decoder
from serve.images.formats import decode

PICTURE = (32, 32, 3)  # (H, W, C) of CIFAR-10
ENOUGH_FOR_DIGIT = 2 * digits.WORK  # pixels on the longer side, plenty to find ink in


def ready(engine: Engine, dataset: str) -> list[ModelInfo]:
    """List the ready models of `dataset` (mnist or cifar10), the most accurate first."""
    found = [info for info in engine.models().values() if info.name.endswith(f".{dataset}")]
    return sorted(found, key=lambda info: (-(info.accuracy or 0), info.name))


def best(engine: Engine, dataset: str) -> str:
    """Choose the most accurate ready model of `dataset`. Raises ApiError where none is ready."""
    models = ready(engine, dataset)
    if not models:
        raise ApiError(503, f"no model for {'digits' if dataset == 'mnist' else 'pictures'} is ready")
    return models[0].name


async def ask(engine: Engine, model: str, pixels: Pixels) -> Answer:
    """Ask `model` about uint8 [H, W, C] of its own size. Raises ApiError, as the engine does."""
    start = time.perf_counter()
    result = await engine.infer(model, pixels[None])
    return Answer(model, result.model.labels, result.probabilities[0], time.perf_counter() - start)


async def ask_all(engine: Engine, dataset: str, pixels: Pixels) -> list[Answer]:
    """Ask all ready models of `dataset`, one after another, so that the time of none includes another's."""
    return [await ask(engine, model.name, pixels) for model in ready(engine, dataset)]


async def digit_from_drawing(decoder: Decoder, data_url: str | None) -> digits.Digit:
    """Prepare what the pad sent, a data URL, or nothing while it is blank. Raises ApiError, as the decoder does."""
    if not data_url:
        return digits.Digit(None, "blank")
    try:
        data = base64.b64decode(data_url.partition(",")[2], validate=True)
    except ValueError:
        raise BadImage(400, "the drawing is not a picture as a data URL") from None
    return await _digit(decoder, data)


async def digit_from_file(decoder: Decoder, path: str | None) -> digits.Digit:
    """Prepare an uploaded photo of a digit, or nothing where there is none. Raises ApiError, as the decoder does."""
    if path is None:
        return digits.Digit(None, "blank")
    return await _digit(decoder, await _read(path))


async def picture_from_file(decoder: Decoder, path: str) -> Pixels:
    """Read an uploaded picture as the CIFAR-10 models see it, uint8 [32, 32, 3]. Raises ApiError, as the decoder
    does.
    """
    pixels: Pixels = (await decoder(await _read(path), PICTURE, timeout=decoder.settings.timeout))[0]
    return pixels


async def _read(path: str) -> bytes:
    return await asyncio.to_thread(Path(path).read_bytes)


async def _digit(decoder: Decoder, data: bytes) -> digits.Digit:
    prepare = partial(_prepared, max_pixels=decoder.settings.max_pixels)
    return await decoder.beside(data, prepare, timeout=decoder.settings.timeout)


def _prepared(data: bytes, *, max_pixels: int) -> digits.Digit:
    # On white, white strokes would vanish; the preparation chooses a background that shows them.
    return digits.prepare(decode(data, max_pixels=max_pixels, enough=ENOUGH_FOR_DIGIT, measure=max, alpha=True))


async def example(decoder: Decoder, dataset: str) -> Pixels:
    """Prepare a picture that ships with the app for the models of `dataset`."""
    examples = Path(__file__).parents[1] / "examples"
    if dataset == "mnist":
        digit = await digit_from_file(decoder, str(examples / "digit-5-on-paper.jpg"))
        if digit.pixels is None:
            raise ApiError(500, "the example digit has no ink")
        return digit.pixels
    return await picture_from_file(decoder, str(examples / "picture-frog.png"))
