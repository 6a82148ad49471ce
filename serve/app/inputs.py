"""From a visitor's drawing or file to pixels of a model's input size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.app.inference import Pixels
from serve.errors import ApiError, BadImage
from serve.images import digits
from serve.images.decoder import Decoder

CIFAR10 = (32, 32, 3)  # (H, W, C)
EXAMPLES = Path(__file__).parents[1] / "examples"


async def digit_from_drawing(decoder: Decoder, strokes: str | None) -> digits.Digit:
    """Prepare what the drawing pad sends, or nothing while it is blank. Raises ApiError, as the decoder does."""
    if not strokes:
        return digits.Digit(None, "blank")
    return await decoder.drawing(strokes, timeout=decoder.settings.timeout)


async def digit_from_file(decoder: Decoder, path: str | None) -> digits.Digit:
    """Prepare a photo of a digit; without a path, a blank one. Raises ApiError, as the decoder does."""
    if path is None:
        return digits.Digit(None, "blank")
    with _still_there():
        return await decoder.digit(Path(path), timeout=decoder.settings.timeout)


async def picture_from_file(decoder: Decoder, path: str) -> Pixels:
    """Read a file as CIFAR-10 models see it, uint8 [32, 32, 3]. Raises ApiError, as the decoder does."""
    with _still_there():
        pixels: Pixels = (await decoder(Path(path), CIFAR10, timeout=decoder.settings.timeout))[0]
    return pixels


async def example(decoder: Decoder, dataset: str) -> Pixels:
    """Prepare one of the app's examples for the models of `dataset`."""
    if dataset == "mnist":
        digit = await digit_from_file(decoder, str(EXAMPLES / "digit-5-on-paper.jpg"))
        if digit.pixels is None:
            raise ApiError(500, "the example digit has no ink")
        return digit.pixels
    return await picture_from_file(decoder, str(EXAMPLES / "picture-frog.png"))


@contextmanager
def _still_there() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # UploadQuota has made room for newer ones
        raise BadImage(400, "the picture is no longer on this server; upload it again") from None
