"""The room that a body holds while its request is processed."""

import asyncio
import gzip
import os

import pytest
from starlette.requests import Request
from starlette.types import Message

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
