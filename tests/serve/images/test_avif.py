"""AVIF: the size that a file states is not the size of what is decoded."""

import resource
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from serve.errors import BadImage
from serve.images import avif, formats

Encode = Callable[..., bytes]


@pytest.mark.parametrize("size", [(32, 32), (5, 3), (1000, 700)])
def test_the_coded_pixels_are_those_of_colours_and_transparency(encode: Encode, size: tuple[int, int]) -> None:
    noise = Image.effect_noise(size, 50)
    assert avif.coded_pixels(encode(noise, "AVIF", speed=10)) == size[0] * size[1]
    assert avif.coded_pixels(encode(Image.merge("LA", [noise, noise]), "AVIF", speed=10)) == 2 * size[0] * size[1]


def test_a_large_image_that_claims_to_be_small_is_not_decoded(encode: Encode) -> None:
    """A kilobyte would take 50 MB."""
    data = bytearray(encode(Image.new("L", (6000, 6000), 7), "AVIF", quality=1, speed=10))
    place = data.index(b"ispe") + 8
    assert struct.unpack(">II", data[place : place + 8]) == (6000, 6000)
    with pytest.raises(BadImage, match="6000x6000, at most 12,500,000 pixels"):
        formats.decode(bytes(data))
    data[place : place + 8] = struct.pack(">II", 32, 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match="32x32, but of 36,000,000 coded pixels") as caught:
        formats.decode(bytes(data))
    assert caught.value.status == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_avif_may_have_half_as_many_pixels(encode: Encode) -> None:
    """Its decoder takes twice the memory."""
    data = encode(Image.new("RGB", (32, 32)), "AVIF")
    assert formats.open_header(data, max_pixels=2 * 32 * 32).size == (32, 32)
    with pytest.raises(BadImage, match="32x32, at most 1,023 pixels") as caught:
        formats.open_header(data, max_pixels=2 * 32 * 32 - 1)
    assert caught.value.status == 413


def test_animations_are_refused(encode: Encode) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    with pytest.raises(BadImage, match="animated AVIF is not read"):
        formats.decode(encode(frames[0], "AVIF", save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize("brands", [b"mif1\0\0\0\0mif1avif", b"avif\0\0\0\0avifmif1", b"mif1\0\0\0\0mif1miafavif"])
def test_the_brand_may_be_that_of_the_container(encode: Encode, brands: bytes) -> None:
    data = encode(Image.new("RGB", (32, 32), "red"), "AVIF")
    length = int.from_bytes(data[:4], "big")
    # The place of the pixels is counted from the file's beginning: the box keeps its length.
    head = (length.to_bytes(4, "big") + b"ftyp" + brands).ljust(length, b"free"[:1])[:length]
    pixels = np.asarray(formats.decode(head + data[length:]))
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], (32, 32, 3)), atol=12)


def bits(*fields: tuple[int, int]) -> bytes:
    """Pack (value, count of bits) fields."""
    text = "".join(format(value, f"0{count}b") for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


@pytest.mark.parametrize(
    "middle",
    [
        pytest.param([(0, 1), (0, 1), (0, 5), (0, 12), (3, 5)], id="plain"),
        pytest.param(
            [(0, 1), (1, 1), (1, 5), (0, 12), (9, 5), (1, 1), (1, 1), (7, 4), (0, 12), (3, 5), (0, 1)], id="two"
        ),
        pytest.param(
            # timing, whose interval is the number 1 0 1, and a decoder's model with delays of 3 bits
            [
                *[(1, 1), (5, 32), (5, 32), (1, 1), (0, 2), (1, 1), (1, 2), (1, 1), (2, 5), (5, 32), (9, 5), (9, 5)],
                *[(0, 1), (0, 5), (0, 12), (3, 5), (1, 1), (5, 3), (5, 3), (1, 1)],
            ],
            id="timing",
        ),
    ],
)
def test_without_the_short_header_a_frame_may_be_as_large_as_its_bits_allow(middle: list[tuple[int, int]]) -> None:
    header = bits((0, 3), (1, 1), (0, 1), *middle, (8, 4), (9, 4), (299, 9), (599, 10))
    assert avif._largest_frame(avif._Bits(memoryview(header))) == (512, 1024)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x08free" * 6000, "more than 5,000 parts"),
        (b"\0\0\0\x08free", "no list of its contents"),
        (b"\0\0\0\x07free", "incomplete"),
        (b"\0\0\0\x0cmeta\0\0\0\0" * 2, "two boxes meta"),
    ],
)
def test_broken_lists_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        avif.coded_pixels(data)
