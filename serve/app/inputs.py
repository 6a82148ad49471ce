"""From a visitor's drawing or file to pixels of a model's input size."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from pathlib import Path

from serve.app.inference import Pixels
from serve.errors import ApiError, BadImage
from serve.images import digits
from serve.images.decoder import Decoder
from serve.images.formats import decode

CIFAR10 = (32, 32, 3)  # (H, W, C)
ENOUGH_FOR_DIGIT = 2 * digits.WORK  # pixels on the longer side, plenty to find ink in
EXAMPLES = Path(__file__).parents[1] / "examples"


async def digit_from_drawing(decoder: Decoder, data_url: str | None) -> digits.Digit:
    """Prepare a drawing: a data URL, or nothing while the pad is blank. Raises ApiError, as the decoder does."""
    if not data_url:
        return digits.Digit(None, "blank")
    try:
        data = base64.b64decode(data_url.partition(",")[2], validate=True)
    except ValueError:
        raise BadImage(400, "the drawing is not an image as a data URL") from None
    return await _digit(decoder, data)


async def digit_from_file(decoder: Decoder, path: str | None) -> digits.Digit:
    """Prepare a photo of a digit; without a path, a blank one. Raises ApiError, as the decoder does."""
    if path is None:
        return digits.Digit(None, "blank")
    return await _digit(decoder, await _read(path))


async def picture_from_file(decoder: Decoder, path: str) -> Pixels:
    """Read a file as CIFAR-10 models see it, uint8 [32, 32, 3]. Raises ApiError, as the decoder does."""
    pixels: Pixels = (await decoder(await _read(path), CIFAR10, timeout=decoder.settings.timeout))[0]
    return pixels


async def example(decoder: Decoder, dataset: str) -> Pixels:
    """Prepare one of the app's examples for the models of `dataset`."""
    if dataset == "mnist":
        digit = await digit_from_file(decoder, str(EXAMPLES / "digit-5-on-paper.jpg"))
        if digit.pixels is None:
            raise ApiError(500, "the example digit has no ink")
        return digit.pixels
    return await picture_from_file(decoder, str(EXAMPLES / "picture-frog.png"))


async def _read(path: str) -> bytes:
    return await asyncio.to_thread(Path(path).read_bytes)


async def _digit(decoder: Decoder, data: bytes) -> digits.Digit:
    prepare = partial(_prepare, max_pixels=decoder.settings.max_pixels)
    return await decoder.beside(data, prepare, timeout=decoder.settings.timeout)


def _prepare(data: bytes, *, max_pixels: int) -> digits.Digit:
    # With transparency: white strokes would vanish on white, and `digits` chooses a background that shows them.
    return digits.prepare(decode(data, max_pixels=max_pixels, enough=ENOUGH_FOR_DIGIT, measure=max, alpha=True))
