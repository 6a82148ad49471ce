"""Decode tiny images at once, others outside the event loop, large ones one after another."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from serve.engine.metrics import Metrics
from serve.engine.models import Images
from serve.engine.processor import usable_cores
from serve.errors import DeadlineExceeded, Overloaded
from serve.images.formats import decode, finish, fit, open_header
from serve.settings import Settings

T = TypeVar("T")

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

    async def __call__(self, data: bytes, shape: tuple[int, int, int], *, timeout: float) -> Images:
        """Decode an image to uint8 [1, H, W, C] of `shape` (H, W, C), within `timeout` seconds.

        Raises:
            BadImage: if the bytes are not an image within the limits.
            ApiError: 503 if too many images wait, 504 if `timeout` passes.
        """
        began = time.perf_counter()
        image = open_header(data, max_pixels=self.settings.max_pixels) if len(data) <= TINY_BYTES else None
        if image is not None and image.width * image.height <= TINY_PIXELS:
            pixels = fit(finish(image), shape)
        else:
            del image  # its unpacked texts can take a thousand times the file's bytes; do not keep them while it waits
            make = partial(_pixels, shape=shape, max_pixels=self.settings.max_pixels)
            pixels = await self.beside(data, make, timeout=timeout)
        self._metrics.decode.observe(time.perf_counter() - began)
        return pixels[None]

    async def beside(self, data: bytes, make: Callable[[bytes], T], *, timeout: float) -> T:
        """Call `make(data)` in another thread and return its result; `make` may raise BadImage.

        The limits are those of `__call__`.
        """
        if self._waiting >= WAITING:
            raise Overloaded("too many images wait to be decoded")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                pixels = await loop.run_in_executor(self._common, self._count, data)
                pool = self._large if pixels > LARGE_PIXELS else self._common
                return await loop.run_in_executor(pool, make, data)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._waiting -= 1

    def _count(self, data: bytes) -> int:
        image = open_header(data, max_pixels=self.settings.max_pixels)
        return image.width * image.height

    def close(self) -> None:
        """Let the threads end after their present images, without waiting for them.

        The decoder can be used again afterwards, with new threads.
        """
        for pool in (self._common, self._large):
            pool.shutdown(wait=False, cancel_futures=True)
        self._open()


def _pixels(data: bytes, *, shape: tuple[int, int, int], max_pixels: int) -> Images:
    return fit(decode(data, max_pixels=max_pixels, enough=ENOUGH), shape)
