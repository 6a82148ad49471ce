"""The square that crops an image: of the image as it is displayed, and never more than it has."""

import asyncio
import io
from collections.abc import Iterator, Sequence
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
from serve.images import photos
from serve.images.crop import MOST, SMALLEST, Crop, read_crop
from serve.images.decoder import Decoder
from serve.images.digits import Digit
from serve.settings import Settings

ORIENTATION = 0x0112
LABELS = [str(digit) for digit in range(10)]
DIGITS = ModelInfo("improved_vgg16.mnist", LABELS, (28, 28, 1), 99.0, "fp32", "cpu", 1, {})
PICTURES = ModelInfo("improved_vgg16.cifar10", LABELS, (32, 32, 3), 90.0, "fp32", "cpu", 1, {})


def file_of(image: Image.Image, orientation: int | None = None) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    side=st.floats(SMALLEST, 1),
)
def test_the_square_is_inside_the_image(size: tuple[int, int], x: float, y: float, side: float) -> None:
    left, top, right, bottom = Crop(x, y, side).box(size)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert right - left == bottom - top == max(1, round(side * min(size)))


def test_enough_pixels_are_decoded_for_the_square_and_not_many_more() -> None:
    assert Crop(0, 0, 1).enough(256) == 256
    assert Crop(0, 0, 0.25).enough(256) == 1024
    assert Crop(0, 0, SMALLEST).enough(800) == MOST


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_square_is_one_of_the_image_as_it_is_displayed(decoder: Decoder, tmp_path: Path, orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    path.write_bytes(file_of(Image.fromarray(noise), orientation))
    shown = ImageOps.exif_transpose(Image.open(path))
    left, top = round(0.3 * shown.width), round(0.1 * shown.height)
    read = asyncio.run(decoder(path, (30, 30, 3), timeout=60, crop=Crop(0.3, 0.1, 0.5)))
    assert np.array_equal(read[0], np.asarray(shown.crop((left, top, left + 30, top + 30))))


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


def test_a_small_square_of_a_large_picture_is_sharp(decoder: Decoder) -> None:
    """Shrunk to what is plenty for all of it, the picture would have 19 pixels in this square."""
    lines = Image.new("RGB", (1600, 1600), "white")
    for x in range(0, 1600, 16):
        lines.paste("black", (x, 0, x + 8, 1600))
    data = file_of(lines)
    read = asyncio.run(decoder(data, (32, 32, 3), timeout=60, crop=Crop(0.5, 0.5, 0.08)))
    assert np.ptp(read[0, 16, :, 0].astype(int)) > 200


Strokes = Sequence[tuple[float, float]]
SEVEN = [(-40, -60), (40, -60), (-10, 60)]
ONE = [(0, -60), (0, 60)]
FOUR = [(20, 60), (20, -60), (-40, 20), (45, 20)]


def paper(*digits: tuple[float, float, Strokes], width: int = 24) -> Image.Image:
    """Paper with digits around places in pixels, and a little noise."""
    page = Image.new("L", (600, 400), 215)
    for x, y, strokes in digits:
        ImageDraw.Draw(page).line([(x + dx, y + dy) for dx, dy in strokes], 40, width, "curve")
    noisy = np.asarray(page) + np.random.default_rng(0).normal(0, 4, (400, 600))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def square(left: float, top: float, side: float) -> Crop:
    """The square in an image of 600 by 400 pixels."""
    return Crop(left / 600, top / 400, side / 400)


TWO = paper((150, 200, SEVEN), (450, 200, FOUR))


def alone(x: float, strokes: Strokes) -> Digit:
    digit = photos.prepare(paper((x, 200, strokes)))
    assert digit.problem is None
    return digit


@pytest.mark.parametrize(
    "crop",
    [
        square(370, 120, 160),  # around it
        square(400, 120, 160),  # its left is cut
        square(370, 120, 100),  # its right
        square(370, 180, 160),  # its top
        square(370, 60, 160),  # its bottom
        square(420, 140, 80),  # all sides
        square(440, 80, 100),  # most of it is outside
        square(300, 0, 400),  # much more than the digit
    ],
)
def test_what_the_square_cuts_is_read_whole(crop: Crop) -> None:
    assert photos.prepare(TWO).problem == "several"
    assert difference(photos.prepare(TWO, crop), alone(450, FOUR)) < 0.1


@pytest.mark.parametrize("table", [40, 250])
def test_the_sheet_around_the_square_is_found(table: int) -> None:
    """The square has the sheet's corner in it, and more of the table is beyond."""
    photo = paper((150, 200, SEVEN), (450, 200, FOUR))
    scene = Image.new("L", photo.size, table)
    scene.paste(photo.crop((60, 90, 520, 310)), (60, 90))
    assert difference(photos.prepare(scene, square(370, 120, 200)), alone(450, FOUR)) < 0.15


def test_a_neighbour_is_not_part_of_the_digit() -> None:
    """A square as high as a 1 is wide enough for a part of what is beside it."""
    photo = paper((300, 200, ONE), (400, 200, SEVEN), (205, 200, FOUR))
    assert difference(photos.prepare(photo, square(235, 130, 130)), alone(300, ONE)) < 0.1


def test_a_speck_in_the_square_does_not_hide_the_digit() -> None:
    photo = paper((300, 200, SEVEN), (335, 210, [(0, 0), (2, 2)]), width=12)
    alone_ = photos.prepare(paper((300, 200, SEVEN), width=12))
    assert difference(photos.prepare(photo, square(275, 170, 90)), alone_) < 0.1


def test_the_square_parts_two_digits_that_touch() -> None:
    photo = paper((250, 200, FOUR), (335, 200, SEVEN))
    assert photos.prepare(photo).problem == "several"
    assert difference(photos.prepare(photo, square(302, 125, 150)), alone(335, SEVEN)) < 0.25


def test_a_digit_far_larger_than_the_square_is_said_to_be_cut() -> None:
    digit = photos.prepare(TWO, square(440, 190, 40))
    assert digit.problem == "cut"
    assert digit.pixels is None


def test_an_empty_square_is_blank() -> None:
    for crop in (square(240, 120, 100), square(250, 0, 100)):
        assert photos.prepare(TWO, crop).problem == "blank"


def test_two_digits_in_the_square_are_several() -> None:
    assert photos.prepare(TWO, Crop(0, 0, 1)).problem != "several"  # 400 pixels: only the 7
    assert photos.prepare(paper((150, 200, SEVEN), (300, 200, FOUR)), square(0, 0, 400)).problem == "several"


def test_two_digits_of_which_the_square_cuts_one_are_several() -> None:
    """What is inside of the right one is too low for a digit of its own; the left one with it is a wide L."""
    photo = paper((220, 200, ONE), (270, 250, [(0, 0), (110, 0), (110, -70)]))
    assert photos.prepare(photo, square(190, 110, 176)).problem == "several"


def test_a_row_of_digits_is_said_to_be_several() -> None:
    row = [(x, 200, SEVEN) for x in (100, 230, 360, 490)]
    assert photos.prepare(paper(*row)).problem == "several"


@settings(max_examples=25, deadline=None)
@given(x=st.floats(0, 1), y=st.floats(0, 1), side=st.floats(SMALLEST, 1), tilt=st.floats(0, 0.3))
def test_every_square_gets_a_result(x: float, y: float, side: float, tilt: float) -> None:
    scene = Image.new("L", (300, 200), 60)
    corners = [(60, 20 + 200 * tilt), (280, 20), (260, 180), (60 - 100 * tilt, 190)]
    ImageDraw.Draw(scene).polygon(corners, fill=215)
    ImageDraw.Draw(scene).line([(150 + dx, 100 + dy) for dx, dy in ONE], 40, 8)
    noisy = np.asarray(scene) + np.random.default_rng(0).normal(0, 4, (200, 300))
    digit = photos.prepare(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), Crop(x, y, side))
    assert (digit.pixels is None) <= (digit.problem is not None)


def test_a_tiny_square_is_not_taken_for_an_image_of_mnist() -> None:
    """MNIST's images are left as they are; this is 20 pixels of a photo, whose paper is grey."""
    small = paper((300, 200, SEVEN)).resize((90, 60), Image.Resampling.BOX)
    digit = photos.prepare(small, Crop(0.37, 0.31, 0.36))
    assert digit.pixels is not None
    assert np.median(digit.pixels) == 0


def test_the_square_travels_with_the_photo(decoder: Decoder, tmp_path: Path) -> None:
    TWO.save(tmp_path / "two.png")
    photo = str(tmp_path / "two.png")
    assert asyncio.run(prepare(decoder, Given(photo=photo, source="photo"), DIGITS)).problem == "several"
    # The square of another tab does not count.
    given = Given(photo=photo, source="photo", photo_crop="0.6,0.25,0.5", picture_crop="none of it")
    read: Any = asyncio.run(prepare(decoder, given, DIGITS))
    assert difference(read, alone(450, FOUR)) < 0.1
    with pytest.raises(BadRequest, match="the crop must be"):
        asyncio.run(prepare(decoder, Given(photo=photo, source="photo", photo_crop="0,0,0"), DIGITS))
