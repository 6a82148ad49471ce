"""The room that a body holds while its request is processed."""

import asyncio
import gzip
import os

import pytest
from starlette.requests import Request
from starlette.types import Message

from serve.errors import ApiError
from serve.http.bodies import SMALL, Bodies
from serve.settings import Settings

LIMIT = 300_000


def request(body: bytes) -> Request:
    parts = [body[start : start + 2**14] for start in range(0, len(body), 2**14)]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    headers = [(b"content-length", str(len(body)).encode()), (b"content-encoding", b"gzip")]
    return Request({"type": "http", "headers": headers}, receive)


@pytest.mark.parametrize("random", [0.0, 0.5], ids=["compressed to little", "compressed by half"])
@pytest.mark.parametrize("size", [SMALL, SMALL + 1, LIMIT - 1, LIMIT])
def test_a_decompressed_body_holds_its_size_unless_it_is_small(size: int, random: float) -> None:
    content = os.urandom(int(random * size)).ljust(size, b"\0")

    async def work() -> None:
        bodies = Bodies(Settings(max_body=LIMIT))
        body, held = await bodies.take(request(gzip.compress(content)))
        assert body == content
        assert held == (size if size > SMALL else 0)

    asyncio.run(work())


@pytest.mark.parametrize("limit", [100, SMALL, LIMIT])
def test_a_body_of_unknown_length_has_a_limit_however_small_that_is(limit: int) -> None:
    read = 0

    async def endless() -> Message:
        nonlocal read
        read += 2**12
        assert read <= max(limit, SMALL) + 2**13
        return {"type": "http.request", "body": bytes(2**12), "more_body": True}

    async def work() -> None:
        for bodies, own in ((Bodies(Settings(max_body=limit)), None), (Bodies(Settings()), limit)):
            nonlocal read
            read = 0
            with pytest.raises(ApiError, match=f"at most {limit:,} bytes") as refusal:
                await bodies.take(Request({"type": "http", "headers": []}, endless), own)
            assert refusal.value.status == 413

    asyncio.run(work())
