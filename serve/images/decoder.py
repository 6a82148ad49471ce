"""Decode tiny images at once, others outside the event loop, large ones one after another."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from serve import tracing
from serve.engine.metrics import Metrics
from serve.engine.models import Images
from serve.engine.processor import usable_cores
from serve.errors import DeadlineExceeded, Overloaded
from serve.images import digits, photos
from serve.images.crop import Crop
from serve.images.formats import decode, finish, fit, open_header
from serve.images.strokes import prepare_strokes, read_strokes
from serve.settings import Settings

T = TypeVar("T")
# An image's bytes, or its file, which is read only while the image is decoded: many may wait.
Source = bytes | Path

# Up to these sizes, decoding takes less time than handing the image to another thread.
TINY_BYTES = 16 * 2**10
TINY_PIXELS = 128 * 128
# Larger images take so much memory that only one of them is decoded at a time.
LARGE_PIXELS = 1_000_000
# How many images may wait to be decoded.
WAITING = 128
# Pixels a side, plenty for networks whose input has 64.
ENOUGH = 256


class Decoder:
    """Turns bytes from strangers into images of a model's size, without holding up other requests."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._metrics = metrics
        self._waiting = 0
        self._open()

    def _open(self) -> None:
        self._common = ThreadPoolExecutor(usable_cores(), "decode")
        self._large = ThreadPoolExecutor(1, "decode-large")

    async def __call__(
        self, data: Source, shape: tuple[int, int, int], *, timeout: float, crop: Crop | None = None
    ) -> Images:
        """Decode an image, or its part `crop`, to uint8 [1, H, W, C] of `shape` (H, W, C), within `timeout` seconds.

        Raises:
            OSError: if `data` is a file that cannot be read.
            BadImage: if the bytes are not an image within the limits.
            ApiError: 503 if too many images wait, 504 if `timeout` passes.
        """
        with tracing.Part("decode"):
            return await self._decode(data, shape, timeout, crop)

    async def _decode(self, data: Source, shape: tuple[int, int, int], timeout: float, crop: Crop | None) -> Images:
        began = time.perf_counter()
        image = None
        if crop is None and isinstance(data, bytes) and len(data) <= TINY_BYTES:
            image = open_header(data, max_pixels=self.settings.max_pixels)
        if image is not None and image.width * image.height <= TINY_PIXELS:
            pixels = fit(finish(image), shape)
        else:
            del image  # its unpacked texts can take a thousand times the file's bytes; do not keep them while it waits
            make = partial(_pixels, shape=shape, max_pixels=self.settings.max_pixels, crop=crop)
            pixels = await self.beside(data, make, timeout=timeout)
        self._metrics.decode.observe(time.perf_counter() - began)
        return pixels[None]

    async def digit(self, data: Source, *, timeout: float, crop: Crop | None = None) -> digits.Digit:
        """Find the digit in a drawing or a photo and prepare it as MNIST would show it; raises as `__call__` does.

        With `crop`, only the digit in that part of the image is looked for.
        """
        began = time.perf_counter()
        with tracing.Part("decode"):
            make = partial(_digit, max_pixels=self.settings.max_pixels, crop=crop)
            found = await self.beside(data, make, timeout=timeout)
        self._metrics.decode.observe(time.perf_counter() - began)
        return found

    async def beside(self, data: Source, make: Callable[[bytes], T], *, timeout: float) -> T:
        """Call `make` with the image's bytes in another thread and return its result; `make` may raise BadImage.

        The limits are those of `__call__`.
        """
        async with self._turn(timeout) as loop:
            pixels = await loop.run_in_executor(self._common, self._count, data)
            pool = self._large if pixels > LARGE_PIXELS else self._common
            return await loop.run_in_executor(pool, lambda: make(_read(data)))

    async def drawing(self, text: str, *, timeout: float) -> digits.Digit:
        """Prepare the digit of a drawing pad's strokes (see `strokes.read_strokes`); raises as `__call__` does."""
        async with self._turn(timeout) as loop:
            return await loop.run_in_executor(self._common, _drawing, text)

    @asynccontextmanager
    async def _turn(self, timeout: float) -> AsyncIterator[asyncio.AbstractEventLoop]:
        if self._waiting >= WAITING:
            raise Overloaded("too many images wait to be decoded")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                yield asyncio.get_running_loop()
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._waiting -= 1

    def _count(self, data: Source) -> int:
        image = open_header(_read(data), max_pixels=self.settings.max_pixels)
        return image.width * image.height

    def close(self) -> None:
        """Let the threads end after their present images, without waiting for them.

        The decoder can be used again afterwards, with new threads.
        """
        for pool in (self._common, self._large):
            pool.shutdown(wait=False, cancel_futures=True)
        self._open()


def _read(data: Source) -> bytes:
    return data if isinstance(data, bytes) else data.read_bytes()


def _pixels(data: bytes, *, shape: tuple[int, int, int], max_pixels: int, crop: Crop | None) -> Images:
    image = decode(data, max_pixels=max_pixels, enough=crop.enough(ENOUGH) if crop else ENOUGH)
    return fit(image.crop(crop.box(image.size)) if crop else image, shape)


def _digit(data: bytes, *, max_pixels: int, crop: Crop | None) -> digits.Digit:
    # With transparency: white strokes would vanish on white, and `digits` chooses a background that shows them.
    enough = crop.enough(photos.ENOUGH) if crop else photos.ENOUGH
    return photos.prepare(decode(data, max_pixels=max_pixels, enough=enough, measure=max, alpha=True), crop)


def _drawing(text: str) -> digits.Digit:
    return prepare_strokes(read_strokes(text))
