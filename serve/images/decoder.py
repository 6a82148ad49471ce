"""Where pictures are decoded: tiny ones at once, others outside the event loop, large ones one after another."""

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

# Up to here decoding takes less time than handing the picture to another thread.
TINY_BYTES = 16 * 2**10
TINY_PIXELS = 128 * 128
# From here on a picture's memory matters, so that only one of these is decoded at a time.
LARGE_PIXELS = 1_000_000
# Pictures that may wait to be decoded.
WAITING = 128
# Pixels a side that are plenty for networks that see 64 of them.
ENOUGH = 256


class Decoder:
    """Turns strangers' bytes into pictures of a model's size without holding up anybody else's request."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._metrics = metrics
        self._waiting = 0
        self._open()

    def _open(self) -> None:
        self._common = ThreadPoolExecutor(usable_cores(), "decode")
        self._large = ThreadPoolExecutor(1, "decode-large")

    async def __call__(self, data: bytes, shape: tuple[int, int, int], *, timeout: float) -> Images:
        """Decode a picture to uint8 [1, H, W, C] of `shape`, within `timeout` seconds.

        Raises BadImage, and ApiError: 503 when too many pictures wait, 504 when it is too late.
        """
        began = time.perf_counter()
        image = open_header(data, max_pixels=self.settings.max_pixels) if len(data) <= TINY_BYTES else None
        if image is not None and image.width * image.height <= TINY_PIXELS:
            pixels = fit(finish(image), shape)
        else:
            del image  # while it waits it would keep its unpacked texts, up to a thousand times their bytes
            make = partial(_pixels, shape=shape, max_pixels=self.settings.max_pixels)
            pixels = await self.beside(data, make, timeout=timeout)
        self._metrics.decode.observe(time.perf_counter() - began)
        return pixels[None]

    async def beside(self, data: bytes, make: Callable[[bytes], T], *, timeout: float) -> T:
        """Call `make`, which takes a picture's bytes and may raise BadImage, in another thread.

        Returns what it returns; the limits are those of `__call__`.
        """
        if self._waiting >= WAITING:
            raise Overloaded("too many pictures wait to be decoded")
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
        """Have the threads end after the pictures they are at, and do not wait for that.

        May be used again afterwards, with new threads.
        """
        for pool in (self._common, self._large):
            pool.shutdown(wait=False, cancel_futures=True)
        self._open()


def _pixels(data: bytes, *, shape: tuple[int, int, int], max_pixels: int) -> Images:
    return fit(decode(data, max_pixels=max_pixels, enough=ENOUGH), shape)
