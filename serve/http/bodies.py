"""Request bodies: whole, bounded in bytes (also after decompression), and bounded in sum over all requests."""

import asyncio
import math
import zlib
from types import TracebackType

from starlette.requests import Request
from starlette.types import Receive

from serve.errors import ApiError, BadRequest, Overloaded
from serve.settings import Settings

# Bytes up to which bodies are not counted: a thousand such bodies take little memory.
SMALL = 64 * 2**10
CODINGS = ("gzip", "x-gzip", "deflate")


class Gone(Exception):
    """The client has left: nobody waits for an answer."""


class Bodies:
    """Reads bodies.

    Large ones take memory: two of the largest size may be held at a time, and the others are left in their sockets
    until there is room. Small ones never wait, and a large one takes room only once more than SMALL bytes of it have
    come: a few connections that announce much and send little cannot keep the others out.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_body
        self._seconds = settings.timeout
        self._room = 2 * max(settings.max_body, SMALL)
        self._changed = asyncio.Condition()

    def read(self, request: Request) -> "_Reading":
        """Make a context whose value is the body, decompressed, which holds its room until the context ends.

        Entering it raises ApiError: 400 for a broken coding, 408 where the body does not arrive, 413 where it is too
        large, 415 for another coding, 503 where no room came free.
        """
        return _Reading(self, request)

    async def take(self, request: Request) -> tuple[bytes, int]:
        """Read the body; return it, and the bytes of room that it holds. See `read`."""
        headers = request.headers
        coding = headers.get("content-encoding", "").strip().lower() or "identity"
        if coding not in (*CODINGS, "identity"):
            raise ApiError(415, f"content-encoding {coding!r} is not supported; valid are {', '.join(CODINGS)}")
        length = self._length(headers.get("content-length"))
        if length <= SMALL and coding == "identity":
            return await self._read(_Parts(request.receive)), 0
        # Nothing tells the decompressed size beforehand: until it is known, room is held for the largest.
        plain = 0 if coding == "identity" else self._limit
        held = 0
        try:
            parts = _Parts(request.receive)
            body = await self._read(parts, SMALL)
            if not parts.complete:
                held = await self._reserve(min(length + plain, 2 * self._limit))
                body = await self._read(parts, self._limit)
            if len(body) > self._limit:
                raise self._too_large()
            if plain:
                held = held or await self._reserve(plain)
                body = await asyncio.to_thread(self._decompress, body)
                kept = len(body) if len(body) > SMALL else 0
                spare, held = held - kept, kept
                await self.release(spare)
        except BaseException:
            await self.release(held)
            raise
        return body, held

    def _length(self, header: str | None) -> int:
        # The HTTP parser has checked that a length is a number; without one the body comes in chunks.
        length = self._limit if header is None else int(header)
        if length > self._limit:
            raise self._too_large()
        return length

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is too large: at most {self._limit:,} bytes, also after decompression")

    async def _reserve(self, size: int) -> int:
        try:
            async with asyncio.timeout(self._seconds), self._changed:
                await self._changed.wait_for(lambda: self._room >= size)
                self._room -= size
        except TimeoutError:
            raise Overloaded("too many large requests") from None
        return size

    async def release(self, size: int) -> None:
        if not size:
            return
        self._room += size
        async with self._changed:
            self._changed.notify_all()

    async def _read(self, parts: "_Parts", most: float = math.inf) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await parts.read(most)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._seconds:g} s") from None

    def _decompress(self, body: bytes) -> bytes:
        # With 32 added to the window's bits zlib detects by itself whether it is gzip or deflate.
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        try:
            plain = stream.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise BadRequest(f"the body cannot be decompressed: {error}") from None
        if len(plain) > self._limit:
            raise self._too_large()
        if not stream.eof or stream.unused_data:
            raise BadRequest("the body cannot be decompressed: it is cut off, or has bytes after its end")
        return plain


class _Reading:
    """The context of `Bodies.read`. As a class it is faster than a generator, and every request goes through it."""

    def __init__(self, bodies: Bodies, request: Request) -> None:
        self._bodies = bodies
        self._request = request

    async def __aenter__(self) -> bytes:
        body, self._held = await self._bodies.take(self._request)
        return body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._bodies.release(self._held)


class _Parts:
    """A body, read as it comes."""

    def __init__(self, receive: Receive) -> None:
        self.complete = False
        self._receive = receive
        self._parts: list[bytes] = []
        self._size = 0

    async def read(self, most: float) -> bytes:
        """Return all bytes; where there are more than `most`, those that have come so far, and stay not `complete`."""
        while not self.complete and self._size <= most:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            self._parts.append(part)
            self._size += len(part)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
