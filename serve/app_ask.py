"""The app's questions to the engine: which models are ready, and what they say of a picture."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import time
from pathlib import Path

from PIL import Image

from serve import drawing
from serve.app_answer import Answer, Pixels
from serve.engine import Engine
from serve.errors import ApiError, BadImage
from serve.images import FORMATS, decode, fit

PICTURE = (32, 32, 3)  # (H, W, C) of CIFAR-10


def ready(engine: Engine, dataset: str) -> list[str]:
    """Names of the ready models of `dataset` (mnist or cifar10), the most accurate first."""
    found = [info for info in engine.models().values() if info.name.endswith(f".{dataset}")]
    return [info.name for info in sorted(found, key=lambda info: (-(info.accuracy or 0), info.name))]


async def ask(engine: Engine, model: str, pixels: Pixels) -> Answer:
    """One answer of `model` to uint8 [H, W, C] of its own size. Raises ApiError, as the engine does."""
    start = time.perf_counter()
    result = await engine.infer(model, pixels[None])
    return Answer(model, result.model.labels, result.probabilities[0], time.perf_counter() - start)


async def ask_all(engine: Engine, dataset: str, pixels: Pixels) -> list[Answer]:
    """The answers of all ready models of `dataset`, one after another, so that none waits for another in its time."""
    return [await ask(engine, model, pixels) for model in ready(engine, dataset)]


async def digit_from_drawing(data_url: str | None) -> drawing.Digit:
    """What the pad sent (a data URL, or nothing while it is blank), prepared. Raises BadImage."""
    if not data_url:
        return drawing.Digit(None, "blank")
    try:
        data = base64.b64decode(data_url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadImage(400, "the drawing is not a picture as a data URL") from None
    return await asyncio.to_thread(_digit, data)


async def digit_from_file(path: str) -> drawing.Digit:
    """An uploaded photo of a digit, prepared. Raises BadImage."""
    return await asyncio.to_thread(lambda: _digit(Path(path).read_bytes()))


def _digit(data: bytes) -> drawing.Digit:
    image = decode(data)
    # `decode` puts transparency over white, where white strokes would vanish; the preparation finds a paper that shows
    # them.
    with Image.open(io.BytesIO(data), formats=FORMATS) as original:
        if original.has_transparency_data:
            image = original.convert("RGBA")
    return drawing.prepare(image)


async def picture_from_file(path: str) -> Pixels:
    """An uploaded picture as the CIFAR-10 models see it, uint8 [32, 32, 3]. Raises BadImage."""
    return await asyncio.to_thread(lambda: fit(decode(Path(path).read_bytes()), PICTURE))


async def example(dataset: str) -> Pixels:
    """A picture that ships with the app, prepared for the models of `dataset`."""
    examples = Path(__file__).parent / "examples"
    if dataset == "mnist":
        digit = await digit_from_file(str(examples / "digit-5-on-paper.jpg"))
        if digit.pixels is None:
            raise ApiError(500, "the example digit has no ink")
        return digit.pixels
    return await picture_from_file(str(examples / "picture-frog.png"))
