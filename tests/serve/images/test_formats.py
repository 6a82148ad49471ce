"""Images from strangers: whatever the bytes, the result is the right pixels or a BadImage."""

import io
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from serve.errors import BadImage
from serve.images import formats

ROOT = Path(__file__).parents[3]
Encode = Callable[..., bytes]

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # the server ignores them too

# An image whose corners show its orientation and colours: red, green / blue, white.
CORNERS = np.zeros((32, 32, 3), np.uint8)
CORNERS[:16, :16] = 255, 0, 0
CORNERS[:16, 16:] = 0, 255, 0
CORNERS[16:, :16] = 0, 0, 255
CORNERS[16:, 16:] = 255, 255, 255
GREY = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, axis=0)[:28, :28, None]


def read(data: bytes, shape: tuple[int, int, int] = (32, 32, 3)) -> np.ndarray:
    return formats.fit(formats.decode(data), shape)


def corners(pixels: np.ndarray) -> np.ndarray:
    """The colours in the centres of the four quarters."""
    return pixels[8::16, 8::16].astype(int)


def test_an_image_of_the_right_size_passes_unchanged(encode: Encode) -> None:
    np.testing.assert_array_equal(read(encode(CORNERS)), CORNERS)
    np.testing.assert_array_equal(read(encode(GREY), (28, 28, 1)), GREY)


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "WEBP": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "GIF": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "AVIF": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_modes(encode: Encode, kind: str, mode: str) -> None:
    bright = np.zeros((64, 64), np.uint8)
    bright[:32, :32] = 255
    if mode == "I;16":
        image = Image.fromarray(bright.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(bright).convert("RGB").convert(mode)
    data = encode(image, kind)
    for shape in ((32, 32, 3), (28, 28, 1)):
        pixels = read(data, shape)
        assert pixels.shape == shape
        assert pixels.dtype == np.uint8
        edge = shape[0] // 4
        assert pixels[edge, edge].min() > 240
        assert pixels[-edge, -edge].max() < 15


def test_sixteen_bit_grey_keeps_its_scale(encode: Encode) -> None:
    ramp = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    np.testing.assert_array_equal(read(encode(Image.fromarray(ramp)), (28, 28, 1))[..., 0], ramp >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_orientations(encode: Encode, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(CORNERS, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(read(data), np.asarray(upright.convert("RGB")))
    if orientation == 6:  # the camera was turned: the stored lower left corner is the upper left one
        assert corners(read(data))[0, 0].argmax() == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientations_in_xmp(encode: Encode, kind: str) -> None:
    """Some photo software writes them there; `test_orientations` has those in EXIF."""
    note = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", note.decode())
    data = encode(CORNERS, kind, **({"pnginfo": info} if kind == "PNG" else {"xmp": note}))
    assert corners(read(data))[0, 0].argmax() == 2


def test_an_image_with_a_broken_orientation_is_read(encode: Encode) -> None:
    data = encode(CORNERS, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken", quality=100)
    np.testing.assert_allclose(corners(read(data)), corners(CORNERS), atol=12)


def test_transparency_becomes_white(encode: Encode) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:16] = 0, 0, 0, 255
    palette = Image.fromarray(CORNERS).quantize(4)
    first = palette.getpixel((0, 0))
    for kind in ("PNG", "WEBP", "AVIF"):
        data = encode(Image.fromarray(clear), kind, lossless=True, quality=100)
        pixels = read(data)
        assert pixels[4].max() == 0
        assert pixels[-4].min() == 255
    pixels = read(encode(palette, transparency=first))
    assert corners(pixels)[0, 0].min() > 240
    assert corners(pixels)[0, 1].argmax() == 1
    grey = Image.fromarray(np.full((28, 28), 77, np.uint8))
    assert read(encode(grey, transparency=77), (28, 28, 1)).min() == 255


def test_an_animation_gives_its_first_frame(encode: Encode) -> None:
    frames = [Image.fromarray(CORNERS), Image.new("RGB", (32, 32))]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        np.testing.assert_allclose(corners(read(data)), corners(CORNERS), atol=12)


def test_the_centre_square_is_taken(encode: Encode) -> None:
    wide = np.concatenate([np.zeros((64, 100, 3), np.uint8), CORNERS.repeat(2, 0).repeat(2, 1)], axis=1)
    wide = np.concatenate([wide, np.zeros((64, 100, 3), np.uint8)], axis=1)
    np.testing.assert_allclose(corners(read(encode(wide))), corners(CORNERS), atol=6)
    np.testing.assert_allclose(
        corners(read(encode(wide.transpose(1, 0, 2)))), corners(CORNERS).transpose(1, 0, 2), atol=6
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "L"), ("JPEG", "RGB"), *((kind, mode) for kind in ("PNG", "WEBP") for mode in ("L", "RGB", "RGBA", "P"))],
)
def test_shrinking_while_decoding_changes_little(encode: Encode, kind: str, mode: str) -> None:
    smooth = Image.fromarray(CORNERS).resize((1500, 1100), Image.Resampling.BICUBIC).convert(mode)
    data = encode(smooth, kind)
    whole = formats.fit(formats.decode(data), (32, 32, 3)).astype(int)
    shrunk = formats.fit(formats.decode(data, enough=256), (32, 32, 3)).astype(int)
    assert np.abs(whole - shrunk).mean() < 2.5
    assert max(formats.decode(data, enough=256).size) < 800


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1), (3, 7)])
def test_odd_sizes(encode: Encode, size: tuple[int, int]) -> None:
    assert read(encode(Image.new("RGB", size, "red"))).reshape(-1, 3).tolist() == [[255, 0, 0]] * 1024


def test_garbage_after_the_end_is_ignored(encode: Encode) -> None:
    np.testing.assert_array_equal(read(encode(CORNERS) + b"<?php garbage" * 1000), CORNERS)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def huge(width: int, height: int) -> bytes:
    """A few bytes of PNG that claim to be an image of this size."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><rect width="9" height="9"/></svg>'


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\0" * 100, 415),
        (b"hello", 415),
        (SVG, 415),
        (b"%PDF-1.7", 415),
        (huge(100_000, 100_000), 413),
        (huge(30_000, 30_000), 413),
        (huge(10_000, 10_000), 413),
        (huge(5001, 5000), 413),
        (huge(100, 100), 400),
    ],
)
def test_bytes_that_are_no_image_are_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadImage) as caught:
        read(data)
    assert caught.value.status == status


def test_other_formats_are_refused(encode: Encode) -> None:
    for kind in ("TIFF", "ICO", "PPM", "TGA", "PDF", "EPS", "PCX"):
        with pytest.raises(BadImage) as caught:
            read(encode(Image.fromarray(CORNERS), kind))
        assert caught.value.status == 415


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_refused(encode: Encode, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    for length in (len(data) // 2, len(data) * 3 // 4, 20, 4):
        with pytest.raises(BadImage) as caught:
            read(data[:length])
        assert caught.value.status in (400, 415)


def test_texts_that_unpack_to_much_are_refused(encode: Encode) -> None:
    info = PngImagePlugin.PngInfo()
    for index in range(10):
        info.add_text(f"key{index}", "x" * 1_000_000, zip=True)
    with pytest.raises(BadImage, match="text"):
        read(encode(CORNERS, pnginfo=info))


def bmp(width: int, height: int, runs: bytes) -> bytes:
    """An 8-bit BMP with run-length coding."""
    start = 14 + 40 + 1024
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return head + b"".join(bytes([i, i, i, 0]) for i in range(256)) + runs


def test_run_lengths_are_refused() -> None:
    for data in (bmp(2, 1, b"\2\7\0\1"), bmp(100_000, 250, b"\0\2\0\xff\0\1")):
        with pytest.raises(BadImage, match="run-length") as caught:
            formats.open_header(data)
        assert caught.value.status == 415


def test_pillow_s_own_limit_stays_for_the_rest_of_the_process() -> None:
    program = (
        "import PIL.Image as image; limit = image.MAX_IMAGE_PIXELS; import serve.images.decoder, serve.images.digits"
    )
    subprocess.run(
        [sys.executable, "-c", f"{program}; assert limit == image.MAX_IMAGE_PIXELS is not None"], cwd=ROOT, check=True
    )


@pytest.mark.parametrize("disposal", range(8))
def test_a_gif_s_second_frame_takes_no_memory(disposal: int) -> None:
    """For these 49 bytes Pillow would make a canvas of 3.6 gigabytes before anything checks the size."""
    width, height = 60_000, 60_000
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    control = b"!\xf9\x04" + bytes([disposal << 2 | 1, 0, 0, 0, 0])
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match="60000x60000, at most 25,000,000 pixels") as caught:
        formats.open_header(head + control + frame)
    assert caught.value.status == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_gif_s_frame_larger_than_its_screen_is_refused(encode: Encode) -> None:
    gif = encode(CORNERS, "GIF")
    place = gif.index(b",", 13 + (6 << (gif[10] & 7)))
    huge_frame = gif[: place + 5] + struct.pack("<HH", 60_000, 60_000) + gif[place + 9 :]
    with pytest.raises(BadImage, match="too large") as caught:
        formats.open_header(huge_frame)
    assert caught.value.status == 413


def test_the_limit_on_pixels_is_the_callers_alone(encode: Encode) -> None:
    data = encode(Image.new("1", (20_000, 9_000)))  # Pillow's own limit is at 179 million, and it warns at half of that
    assert formats.open_header(data, max_pixels=180_000_000).size == (20_000, 9_000)
    with pytest.raises(BadImage, match="20000x9000, at most 179,999,999 pixels") as caught:
        formats.open_header(data, max_pixels=179_999_999)
    assert caught.value.status == 413


def test_webp_may_have_half_as_many_pixels(encode: Encode) -> None:
    """Its decoder takes twice the memory."""
    data = encode(CORNERS, "WEBP")
    assert formats.open_header(data, max_pixels=2 * 32 * 32).size == (32, 32)
    with pytest.raises(BadImage, match="32x32, at most 1,023 pixels") as caught:
        formats.open_header(data, max_pixels=2 * 32 * 32 - 1)
    assert caught.value.status == 413


def test_images_with_thousands_of_scans_are_refused(encode: Encode) -> None:
    data = encode(CORNERS, "JPEG", progressive=True)
    assert read(data).shape == (32, 32, 3)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert read(data[:-2] + last * 50 + data[-2:]).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="more than 100 scans"):
        formats.open_header(data[:-2] + last * 5000 + data[-2:])
    # What follows the end, such as a film, may contain such bytes too.
    assert read(data + b"\xff\xda" * 5000).shape == (32, 32, 3)


def test_bytes_before_the_pixels_are_limited(encode: Encode) -> None:
    gif, jpeg, png = (encode(CORNERS, kind) for kind in ("GIF", "JPEG", "PNG"))
    assert gif[10] & 0x80
    start = 13 + (6 << (gif[10] & 7))  # after the header and its colours

    def commented(count: int) -> bytes:
        return gif[:start] + b"!\xfe" + (b"\xff" + b"x" * 255) * count + b"\0" + gif[start:]

    def noted(count: int) -> bytes:
        return jpeg[:2] + (b"\xff\xe9\xff\xff" + bytes(65533)) * count + jpeg[2:]

    def titled(count: int) -> bytes:
        return png[:33] + chunk(b"tEXt", b"Title\0" + b"x" * 65536) * count + png[33:]

    for make, most in ((commented, 1000), (noted, 60), (titled, 60)):
        assert read(make(most)).shape == (32, 32, 3)
        with pytest.raises(BadImage, match="too much comes before its pixels") as caught:
            formats.open_header(make(2 * most))
        assert caught.value.status == 400
    # Bytes after these are not counted.
    noise = np.random.default_rng(0).integers(0, 256, (1250, 1250, 3), dtype=np.uint8)
    grey = noise[:600, :600, 0]
    for pixels, kind, options in (
        (noise, "PNG", {"compress_level": 0}),
        (grey, "GIF", {}),
        (noise, "WEBP", {"lossless": True, "method": 0}),
    ):
        data = encode(pixels, kind, **options)
        assert len(data) > formats.MAX_HEAD.get(kind, formats.MAX_HEAD_ELSE) or kind == "WEBP"
        assert read(data).shape == (32, 32, 3)


REAL = sorted((ROOT / "serve" / "examples").glob("*.[pj]*g"))


def change(data: bytearray, changes: int, chance: random.Random) -> None:
    """Overwrite, insert and remove bytes."""
    for _ in range(changes):
        # Half of the changes hit the head, which holds the structure.
        place = chance.randrange(min(len(data), chance.choice([64, len(data)])))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        else:
            del data[place : place + chance.randrange(1, 9)]


@given(
    which=st.integers(0, len(REAL) + 3),
    seed=st.integers(0, 2**32 - 1),
    changes=st.integers(0, 30),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    enough=st.sampled_from([None, 64]),
)
@settings(max_examples=int(os.environ.get("FUZZ", "300")), deadline=None)
@example(which=0, seed=0, changes=0, cut=None, enough=None)
def test_mutated_real_files(
    encode: Encode, which: int, seed: int, changes: int, cut: float | None, enough: int | None
) -> None:
    """Bytes are overwritten, inserted, removed and cut off: the result is an image or a BadImage."""
    if which < len(REAL):
        data = bytearray(REAL[which].read_bytes())
    else:
        small = Image.open(REAL[0]).convert("RGB").resize((48, 48))
        data = bytearray(encode(small, ("WEBP", "GIF", "BMP", "AVIF")[which - len(REAL)]))
    change(data, changes, random.Random(seed))
    if cut is not None:
        del data[int(len(data) * cut) :]
    refused = None
    try:
        image = formats.decode(bytes(data), enough=enough, max_pixels=4_000_000)
    except BadImage as error:
        refused = error
    if refused is not None:
        assert refused.status in (400, 413, 415)
        assert refused.message
        return
    assert image.mode in ("L", "RGB")
    for shape in ((32, 32, 3), (28, 28, 1)):
        assert formats.fit(image, shape).shape == shape
    if not changes and cut is None:
        expected = Image.open(io.BytesIO(data)).size
        assert sorted(image.size) == sorted(expected) or enough is not None


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000), (1999, 1501), (200_000, 3)])
@pytest.mark.parametrize("alpha", [False, True])
def test_shrinking_by_tiles_equals_shrinking_the_whole(
    encode: Encode, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], alpha: bool
) -> None:
    noise = Image.effect_noise(size, 80)
    picture = Image.merge("RGBA", [noise, noise.transpose(Image.Transpose.ROTATE_180), noise, noise])
    data = encode(picture, compress_level=1)
    monkeypatch.setattr(formats, "TILE_PIXELS", 50_000)
    small = formats.decode(data, enough=400, measure=max, alpha=alpha)
    whole = formats.decode(data, alpha=alpha).reduce(max(size) // 400)
    assert small.mode == ("RGBA" if alpha else "RGB")
    assert small.size == whole.size
    np.testing.assert_array_equal(np.asarray(small), np.asarray(whole))


def test_transparency_is_kept_on_request(encode: Encode) -> None:
    assert formats.decode(encode(Image.new("LA", (9, 9))), alpha=True).mode == "RGBA"
    assert formats.decode(encode(Image.new("RGB", (9, 9))), alpha=True).mode == "RGB"


def test_too_long_rows_are_refused(encode: Encode) -> None:
    with pytest.raises(BadImage, match="262,144 pixels a side") as caught:
        read(encode(Image.new("1", (300_000, 1))))
    assert caught.value.status == 413
