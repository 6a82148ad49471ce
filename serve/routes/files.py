"""Encoded images of a request: one after another, so that a request of many does not hold up the others."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from serve.errors import ApiError

T = TypeVar("T")


async def in_turn(files: Sequence[bytes], decode: Callable[[bytes, float], Awaitable[T]], deadline: float) -> list[T]:
    """Await `decode(file, seconds left)` for each file, and return the results in order.

    Raises:
        ApiError: As `decode` does. Of several files, the message says which.
    """
    results = []
    for number, data in enumerate(files, 1):
        try:
            results.append(await decode(data, deadline - time.monotonic()))
        except ApiError as error:
            if len(files) > 1:
                error.message = f"file {number} of {len(files)}: {error.message}"
            raise
        if len(files) > 1:
            await asyncio.sleep(0)  # small images are decoded without a pause
    return results
