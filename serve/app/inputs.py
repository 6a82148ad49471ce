"""From a visitor's drawing or file to pixels of a model's input size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.app.inference import Kind, Pixels, kind_of
from serve.engine.models import ModelInfo
from serve.errors import ApiError
from serve.images import digits
from serve.images.crop import Crop, read_crop
from serve.images.decoder import Decoder

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE_OF: dict[Kind, str] = {"digit": "digit-5-on-paper.jpg", "picture": "picture-frog.png"}


@dataclass(frozen=True)
class Given:
    """What a visitor has put into the page; the browser sends it with each call, so no server has to remember it.

    Attributes:
        drawing: the drawing pad's value.
        photo: the upload of a digit, as are `picture` and `image` of theirs: a path, None without one.
        source: which of `drawing` and `photo` is the digit.
        photo_crop: the part of the photo to be read, as `read_crop` takes it, as are `picture_crop` and `image_crop`.
    """

    drawing: str | None = None
    photo: str | None = None
    picture: str | None = None
    image: str | None = None
    source: Literal["draw", "photo"] = "draw"
    photo_crop: object = None
    picture_crop: object = None
    image_crop: object = None

    def file(self, kind: Kind) -> str | None:
        """Return the upload for models of a kind."""
        return {"digit": self.photo, "picture": self.picture, "image": self.image}[kind]

    def crop(self, kind: Kind) -> Crop | None:
        """Return the part of that upload to be read; None for all of it. Raises BadRequest if it is not valid."""
        return read_crop({"digit": self.photo_crop, "picture": self.picture_crop, "image": self.image_crop}[kind])


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as a model sees it.

    Attributes:
        pixels: uint8 [H, W, C]; None: there is nothing to classify.
        problem: what is wrong with a digit.
        is_example: whether it is an example, as the visitor has given nothing.
    """

    pixels: Pixels | None
    problem: digits.Problem | None = None
    is_example: bool = False


async def prepare(decoder: Decoder, given: Given, model: ModelInfo) -> Prepared:
    """Prepare what the visitor has given for `model`. Raises ApiError, as the decoder does."""
    kind = kind_of(model.name)
    if kind == "digit":
        digit = await digit_of(decoder, given)
        return Prepared(digit.pixels, digit.problem)
    path = given.file(kind)
    if path is None:
        return Prepared(None)
    return Prepared(await picture_from_file(decoder, path, model.image_size, given.crop(kind)))


async def prepare_or_example(decoder: Decoder, given: Given, model: ModelInfo) -> Prepared:
    """Do what `prepare` does, with one of the app's examples in the place of nothing, if there is one of this kind."""
    prepared = await prepare(decoder, given, model)
    kind = kind_of(model.name)
    if prepared.pixels is not None or kind not in EXAMPLE_OF:
        return prepared
    path = str(EXAMPLES / EXAMPLE_OF[kind])
    example = await prepare(decoder, Given(photo=path, picture=path, source="photo"), model)
    return Prepared(example.pixels, is_example=True)


async def digit_of(decoder: Decoder, given: Given) -> digits.Digit:
    """Prepare the drawing or the photo of a digit. Raises ApiError, as the decoder does."""
    if given.source == "photo":
        return await digit_from_file(decoder, given.photo, given.crop("digit"))
    # The pad's value is whatever a client sends.
    return await digit_from_drawing(decoder, given.drawing if isinstance(given.drawing, str) else None)


async def digit_from_drawing(decoder: Decoder, strokes: str | None) -> digits.Digit:
    """Prepare what the drawing pad sends, or nothing while it is blank. Raises ApiError, as the decoder does."""
    if not strokes:
        return digits.Digit(None, "blank")
    return await decoder.drawing(strokes, timeout=decoder.settings.timeout)


async def digit_from_file(decoder: Decoder, path: str | None, crop: Crop | None = None) -> digits.Digit:
    """Prepare a photo of a digit, or its part `crop`; without a path, a blank one.

    Raises ApiError, as the decoder does.
    """
    if path is None:
        return digits.Digit(None, "blank")
    with _still_there():
        return await decoder.digit(Path(path), timeout=decoder.settings.timeout, crop=crop)


async def picture_from_file(
    decoder: Decoder, path: str, shape: tuple[int, int, int], crop: Crop | None = None
) -> Pixels:
    """Read a file, or its part `crop`, as models with inputs of `shape` (H, W, C) see it.

    Raises ApiError, as the decoder does.
    """
    with _still_there():
        pixels: Pixels = (await decoder(Path(path), shape, timeout=decoder.settings.timeout, crop=crop))[0]
    return pixels


@contextmanager
def _still_there() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # UploadQuota has made room for newer ones
        raise ApiError(410, "the picture is no longer on this server; choose it again") from None
