"""The sizes of an AVIF file's coded images, read from their AV1 data.

The size that the file states is that of the result. The coded images may be far larger, and would be shrunk to it: a
kilobyte could take gigabytes. Pillow has no limit for that, so all of them are looked up before any is decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# Files of cameras and encoders have three of these units for an image, and a few hundred images in a grid.
MAX_UNITS = 5000
MAX_BOXES = 5000
# Bytes of the lists of such images.
MAX_LIST = 2**17
SEQUENCE_HEADER = 1
META, LOCATIONS, ITEMS, ITEM, DATA, MOVIE = b"meta", b"iloc", b"iinf", b"infe", b"idat", b"moov"


def coded_pixels(data: bytes) -> int:
    """Return the pixels of all coded images together.

    Raises:
        ValueError: If the file is broken, or in a form that is not read, such as an animation.
    """
    top = dict(_boxes(memoryview(data)))
    if MOVIE in top:
        raise ValueError("animated AVIF is not read")
    if META not in top:
        raise ValueError("it has no list of its contents")
    meta = dict(_boxes(top[META][4:]))
    if max(len(meta[ITEMS]), len(meta[LOCATIONS])) > MAX_LIST:
        raise ValueError("its list of contents is too long")
    coded = _coded_items(_Bytes(meta[ITEMS]))
    units = pixels = 0
    for content in _contents(_Bytes(meta[LOCATIONS]), coded, memoryview(data), meta.get(DATA, memoryview(b""))):
        for kind, unit in _units(content):
            units += 1
            if units > MAX_UNITS:
                raise ValueError(f"it has more than {MAX_UNITS:,} parts")
            if kind == SEQUENCE_HEADER:
                width, height = _largest_frame(_Bits(unit))
                pixels += width * height
    return pixels


class _Bytes:
    """Reads big-endian numbers from bytes."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def take(self, size: int) -> memoryview:
        if len(self.data) < size:
            raise ValueError("it is incomplete")
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the content of each box. Raises ValueError for a type that occurs twice."""
    seen = set()
    for _ in range(MAX_BOXES):
        if not data:
            return
        head = _Bytes(data)
        size, kind = head.number(4), bytes(head.take(4))
        if size == 1:
            size = head.number(8)
        size = size or len(data)  # 0: to the end
        start = len(data) - len(head.data)
        if not start <= size <= len(data):
            raise ValueError("it is incomplete")
        if kind in seen and kind in (META, LOCATIONS, ITEMS, DATA):
            raise ValueError(f"it has two boxes {kind.decode()}")
        seen.add(kind)
        yield kind, data[start:size]
        data = data[size:]
    raise ValueError(f"it has more than {MAX_BOXES:,} parts")


def _coded_items(items: _Bytes) -> set[int]:
    """Return the ids of the items that are AV1 images."""
    version = items.number(4) >> 24
    items.number(4 if version else 2)
    found = set()
    for kind, content in _boxes(items.data):
        entry = _Bytes(content)
        version = entry.number(4) >> 24 if kind == ITEM else 0
        if version >= 2:
            number = entry.number(2 if version == 2 else 4)
            entry.number(2)  # protection
            if bytes(entry.take(4)) == b"av01":
                found.add(number)
    return found


def _contents(locations: _Bytes, wanted: set[int], file: memoryview, local: memoryview) -> Iterator[bytes]:
    """Yield the bytes of the wanted items, which are in the file or in the box for small data."""
    version = locations.number(4) >> 24
    sizes = locations.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    room = 2 * len(file)  # parts may overlap, but not without end
    for _ in range(locations.number(wide)):
        number = locations.number(wide)
        method = locations.number(2) & 15 if version else 0
        locations.number(2)  # the file, which is this one
        base = locations.number(base_size)
        parts = []
        for _ in range(locations.number(2)):
            locations.number(index_size if version else 0)
            start = base + locations.number(offset_size)
            length = locations.number(length_size)
            if number in wanted:
                if method > 1:
                    raise ValueError("its images are in a place that is not read")
                part = (local if method else file)[start:][: length or None]
                room -= len(part)
                if room < 0:
                    raise ValueError("its images overlap")
                parts.append(part)
        if number in wanted:
            yield b"".join(parts)


def _units(content: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the content of each unit (OBU) of an AV1 image: section 5.3 of its specification."""
    data = memoryview(content)
    while data:
        head = data[0]
        start = 2 if head & 4 else 1
        size = len(data) - start
        if head & 2:
            size = shift = 0
            while True:
                if start >= len(data) or shift > 49:
                    raise ValueError("it is incomplete")
                byte = data[start]
                size |= (byte & 127) << shift
                start, shift = start + 1, shift + 7
                if byte < 128:
                    break
        yield head >> 3 & 15, data[start : start + size]
        data = data[start + size :]


@dataclass
class _Bits:
    """Reads numbers of any count of bits."""

    data: memoryview
    place: int = 0

    def take(self, count: int) -> int:
        end = self.place + count
        if end > 8 * len(self.data):
            raise ValueError("it is incomplete")
        window = int.from_bytes(self.data[self.place // 8 : -(-end // 8)], "big")
        self.place = end
        return window >> (-end % 8) & ((1 << count) - 1)


def _largest_frame(bits: _Bits) -> tuple[int, int]:
    """Read the largest width and height of frames from a sequence header: section 5.5 of AV1's specification."""
    bits.take(4)  # profile, still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    # Without the reduced header, a frame may state a size of its own, of as many bits.
    return (width, height) if reduced else (1 << width_bits, 1 << height_bits)


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0  # bits of a buffer's delay; 0: not stated
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            zeros = 0
            while not bits.take(1):
                zeros += 1
                if zeros == 32:
                    raise ValueError("its timing cannot be read")
            bits.take(zeros)
        if bits.take(1):  # decoder model
            delay = bits.take(5) + 1
            bits.take(42)
    initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if initial_delay and bits.take(1):
            bits.take(4)
