"""The room that a body holds while its request is processed."""

import asyncio
import gzip
import os
import zlib

import pytest
from starlette.requests import Request
from starlette.types import Message

from serve.errors import ApiError
from serve.http.bodies import MAX_MEMBERS, SMALL, Bodies
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


def read(body: bytes) -> bytes:
    async def work() -> bytes:
        bodies = Bodies(Settings(max_body=LIMIT))
        async with bodies.read(request(body)) as content:
            return content

    return asyncio.run(work())


def test_a_gzip_body_may_have_several_members() -> None:
    """`cat a.gz b.gz` is a gzip file; programs that compress in blocks or in parallel write such files too."""
    for sizes in ([3, 5], [0, 70_000, 0, 1], [100] * 1000, [LIMIT - 7, 7]):
        contents = [os.urandom(size) for size in sizes]
        packed = b"".join(gzip.compress(content, 1) for content in contents)
        if len(packed) <= LIMIT:
            assert read(packed) == b"".join(contents)
    assert read(gzip.compress(b"") * MAX_MEMBERS) == b""


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (gzip.compress(bytes(LIMIT)) + gzip.compress(b"x"), 413, "too large"),
        (gzip.compress(b"x") + gzip.compress(bytes(LIMIT)), 413, "too large"),
        (gzip.compress(bytes(LIMIT // 3)) * 4, 413, "too large"),
        (gzip.compress(bytes(LIMIT + 1)) + gzip.compress(b""), 413, "too large"),
        (gzip.compress(b"x") + gzip.compress(b"y")[:-1], 400, "incomplete"),
        (gzip.compress(b"x") + gzip.compress(b"y")[:5], 400, "incomplete"),
        (gzip.compress(b"x") * 2 + b"more", 400, "decompressed"),
        (gzip.compress(b"x") + zlib.compress(b"y"), 400, "bytes after its end"),
        (zlib.compress(b"x") + gzip.compress(b"y"), 400, "bytes after its end"),
        (gzip.compress(b"") * (MAX_MEMBERS + 2), 400, "members"),
    ],
    ids=[f"body{number}" for number in range(10)],  # gzip writes the time into the bytes
)
def test_the_limits_hold_for_all_members_together(body: bytes, status: int, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        read(body)
    assert caught.value.status == status


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
