"""HEIC, which the server reads if pillow-heif is installed."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from serve.errors import BadImage
from serve.images import formats

heif = pytest.importorskip("pillow_heif")
Encode = Callable[..., bytes]


@pytest.fixture(scope="module", autouse=True)
def encoder() -> None:
    heif.register_heif_opener()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_pixels(encode: Encode, mode: str) -> None:
    half = Image.new("RGB", (64, 48), "red")
    half.paste((0, 0, 255), (32, 0, 64, 48))
    image = half.convert(mode)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    pixels = formats.decode(encode(image, "HEIF", quality=95))
    assert pixels.mode == ("L" if mode == "L" else "RGB")
    expected = Image.new("RGBA", image.size, "white")
    expected.alpha_composite(image.convert("RGBA"))
    np.testing.assert_allclose(
        np.asarray(pixels, int)[:, [4, 60]], np.asarray(expected.convert(pixels.mode), int)[:, [4, 60]], atol=12
    )


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientations(encode: Encode, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (64, 48))
    image.paste((255, 255, 255), (0, 0, 32, 24))  # the upper left quarter, as stored
    image.info["exif"] = exif.tobytes()  # written as the file's own rotation
    data = encode(image, "HEIF", quality=95)
    assert (b"irot" in data) == (orientation > 1)
    pixels = np.asarray(formats.decode(data))
    assert pixels.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    height, width = pixels.shape[:2]
    bright = {1: (0, 0), 3: (1, 1), 6: (0, 1), 8: (1, 0)}[orientation]
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        centre = pixels[height // 4 + height // 2 * place[0], width // 4 + width // 2 * place[1]]
        assert (centre.min() > 200) == (place == bright), place


def test_a_large_image_that_claims_to_be_small_is_refused(encode: Encode) -> None:
    data = bytearray(encode(Image.new("RGB", (4000, 4000)), "HEIF", quality=1, enc_params={"preset": "ultrafast"}))
    with pytest.raises(BadImage, match="4000x4000, at most 12,500,000 pixels") as caught:
        formats.decode(bytes(data))
    assert caught.value.status == 413
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", 32, 32)
    with pytest.raises(BadImage, match="limit"):
        formats.decode(bytes(data))


def test_broken_files_are_refused(encode: Encode) -> None:
    data = encode(Image.effect_noise((64, 64), 90).convert("RGB"), "HEIF")
    for length in (12, 40, len(data) // 2, len(data) - 40):
        with pytest.raises(BadImage) as caught:
            formats.decode(data[:length])
        assert caught.value.status in (400, 415)
