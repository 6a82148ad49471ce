"""PNG: colours that stand for transparency."""

import struct
import zlib

import numpy as np
import pytest

from serve.images import formats


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(depth: int, colour: int, transparent: tuple[int, ...], *pixels: tuple[int, ...]) -> bytes:
    """A PNG with one row of pixels, which are repeated eight times; the colour `transparent` is."""
    samples = [sample for pixel in pixels * 8 for sample in pixel]
    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    head = struct.pack(">IIBBBBB", len(pixels) * 8, 1, depth, colour, 0, 0, 0)
    clear = struct.pack(f">{len(transparent)}H", *transparent)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    chunks = (chunk(b"IHDR", head), chunk(b"tRNS", clear), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("enough", [None, 1])
@pytest.mark.parametrize(
    ("depth", "clear", "other", "shown"),
    [
        (1, (0,), (1,), [255]),
        (2, (1,), (2,), [170]),
        (4, (1,), (2,), [34]),
        (8, (1,), (2,), [2]),
        (16, (0x1234,), (0x1235,), [0x12]),
        (8, (1, 2, 3), (1, 2, 4), [1, 2, 4]),
        (16, (0x1234, 1, 0x5678), (0x1234, 1, 0x5778), [0x12, 0, 0x57]),
    ],
)
def test_one_colour_of_a_png_may_be_transparent(
    depth: int, clear: tuple[int, ...], other: tuple[int, ...], shown: list[int], enough: int | None
) -> None:
    data = png(depth, 2 if len(clear) == 3 else 0, clear, clear, other)
    pixels = np.asarray(formats.decode(data)).reshape(16, -1).tolist()
    assert pixels == [[255] * len(shown), shown] * 8
    # The other's alpha is 255; of shrunk images both are mixed.
    both = np.asarray(formats.decode(data, alpha=True, enough=enough, measure=max))[..., 3].ravel()
    assert both.tolist() == [0, 255] * 8 if enough is None else (both > 0).all() and (both < 255).all()
