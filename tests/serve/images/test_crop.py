"""The square that crops an image: of the image as it is displayed, and never more than it has."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digit_pixels import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from serve.app.inputs import Given, prepare
from serve.engine.metrics import Metrics
from serve.engine.models import ModelInfo
from serve.errors import BadRequest
from serve.images import formats
from serve.images.crop import SMALLEST, Crop, read_crop
from serve.images.decoder import Decoder
from serve.settings import Settings

ORIENTATION = 0x0112
LABELS = [str(digit) for digit in range(10)]
DIGITS = ModelInfo("improved_vgg16.mnist", LABELS, (28, 28, 1), 99.0, "fp32", "cpu", 1, {})
PICTURES = ModelInfo("improved_vgg16.cifar10", LABELS, (32, 32, 3), 90.0, "fp32", "cpu", 1, {})


def file_of(image: Image.Image, orientation: int | None = None, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_square_is_one_of_the_image_as_it_is_displayed(orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(noise), orientation)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    left, top = round(0.3 * shown.width), round(0.1 * shown.height)
    cut = formats.decode(data, crop=Crop(0.3, 0.1, 0.5))
    assert np.array_equal(np.asarray(cut), np.asarray(shown.crop((left, top, left + 30, top + 30))))


def test_a_large_image_keeps_enough_pixels_in_the_square() -> None:
    large = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    for kind in ("PNG", "JPEG"):
        data = file_of(large, kind=kind)
        assert max(formats.decode(data, enough=100).size) < 270
        cut = formats.decode(data, enough=100, crop=Crop(0.2, 0.2, 0.25))
        assert 100 <= cut.width == cut.height < 200
        # The gradient has the same tones there: nothing was moved.
        top = float(np.asarray(cut, float)[0].mean())
        assert top == pytest.approx(255 * 0.2, abs=4)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    side=st.floats(SMALLEST, 1),
    turn=st.sampled_from([None, *formats.UPRIGHT.values()]),
)
def test_the_square_is_inside_the_image(size: tuple[int, int], x: float, y: float, side: float, turn: Any) -> None:
    left, top, right, bottom = Crop(x, y, side).box(size, turn)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert right - left == bottom - top == max(1, round(side * min(size)))


def test_a_square_is_read_from_a_text() -> None:
    assert read_crop("0.25,0,0.5") == Crop(0.25, 0, 0.5)
    assert read_crop("") is None
    assert read_crop(None) is None


@pytest.mark.parametrize(
    "given",
    [
        "0.1,0.2",
        "0.1,0.2,0.3,0.4",
        "nan,0,0.5",
        "0,0,inf",
        "-0.1,0,0.5",
        "0,1.1,0.5",
        "0,0,0.04",
        "0,0,1.01",
        "a,b,c",
        "," * 1000,
        "1" * 100_000,
        0.5,
        False,
        [0, 0, 1],
        {"x": 0},
    ],
    ids=lambda given: repr(given)[:20],
)
def test_anything_else_is_refused_in_one_sentence(given: object) -> None:
    with pytest.raises(BadRequest, match=r"^the crop must be \"x,y,side\" .* not ") as refused:
        read_crop(given)
    assert refused.value.status == 400
    assert len(refused.value.message) < 250


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(Settings(timeout=300), Metrics())
    yield made
    made.close()


def sevens(*places: tuple[float, float]) -> Image.Image:
    """Paper with a 7 around each of `places`, in pixels, and a little noise."""
    paper = Image.new("L", (600, 400), 215)
    for x, y in places:
        ImageDraw.Draw(paper).line([(x - 40, y - 60), (x + 40, y - 60), (x - 10, y + 60)], 40, 10, "curve")
    noisy = np.asarray(paper) + np.random.default_rng(0).normal(0, 4, (400, 600))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def test_of_two_digits_the_one_in_the_square_is_read(decoder: Decoder, tmp_path: Path) -> None:
    sevens((150, 200), (450, 200)).save(tmp_path / "two.png")
    alone = file_of(sevens((450, 200)))
    given = Given(photo=str(tmp_path / "two.png"), source="photo")
    part = Given(photo=str(tmp_path / "two.png"), source="photo", photo_crop="0.5,0.1,0.75", picture_crop="none of it")
    assert asyncio.run(prepare(decoder, given, DIGITS)).problem == "several"
    read: Any = asyncio.run(prepare(decoder, part, DIGITS))
    assert difference(read, asyncio.run(decoder.digit(alone, timeout=60))) < 0.1
    with pytest.raises(BadRequest, match="the crop must be"):
        asyncio.run(prepare(decoder, Given(photo=given.photo, source="photo", photo_crop="0,0,0"), DIGITS))


def test_a_row_of_digits_is_said_to_be_several(decoder: Decoder) -> None:
    for places in ([(150, 200), (450, 200)], [(100, 200), (230, 200), (360, 200), (490, 200)]):
        assert asyncio.run(decoder.digit(file_of(sevens(*places)), timeout=60)).problem == "several"


def test_a_tiny_square_is_not_taken_for_an_image_of_mnist(decoder: Decoder) -> None:
    """MNIST's images are left as they are; this is 20 pixels of a photo, whose paper is grey."""
    small = sevens((300, 200)).resize((90, 60), Image.Resampling.BOX)
    digit = asyncio.run(decoder.digit(file_of(small), timeout=60, crop=Crop(0.37, 0.31, 0.36)))
    assert digit.pixels is not None
    assert np.median(digit.pixels) == 0


def test_a_picture_is_the_square_and_not_its_centre(decoder: Decoder, tmp_path: Path) -> None:
    halves = Image.new("RGB", (200, 100), "red")
    halves.paste("blue", (120, 0, 200, 100))
    halves.save(tmp_path / "halves.png")
    picture = str(tmp_path / "halves.png")
    whole = asyncio.run(prepare(decoder, Given(picture=picture), PICTURES)).pixels
    part = asyncio.run(prepare(decoder, Given(picture=picture, picture_crop="0.65,0.2,0.6"), PICTURES)).pixels
    assert whole is not None
    assert part is not None
    assert whole[16, 16].tolist() == [255, 0, 0]
    assert (part == [0, 0, 255]).all()
