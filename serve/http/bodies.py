"""Request bodies, with a limit on the bytes of each (also after decompression) and of all together."""

import asyncio
import math
import zlib
from types import TracebackType

from starlette.requests import Request
from starlette.types import Receive

from serve.errors import ApiError, BadRequest, Overloaded
from serve.settings import Settings

# Bodies up to this many bytes are not counted: a thousand of them take little memory.
SMALL = 64 * 2**10
CODINGS = ("gzip", "x-gzip", "deflate")


class Gone(Exception):
    """The client has left: nobody waits for a response."""


class Bodies:
    """Reads bodies within a budget of memory.

    The budget is two bodies of the largest size; further ones stay in their sockets until there is room. Small bodies
    never wait. A large body takes room only after more than SMALL bytes of it have arrived, so that a few connections
    that announce much and send little cannot block the others.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_body
        self._seconds = settings.timeout
        self._room = 2 * max(settings.max_body, SMALL)
        self._changed = asyncio.Condition()

    def read(self, request: Request) -> "_Reading":
        """Return a context manager for the body, decompressed. The body keeps its room until the context ends.

        Raises:
            ApiError: On entering the context. 400 if the body cannot be decompressed, 408 if it does not arrive, 413 if
                it is too large, 415 for an unknown content-encoding, 503 if no room became free.
        """
        return _Reading(self, request)

    async def take(self, request: Request) -> tuple[bytes, int]:
        """Read the body; return it and the number of bytes to `release` later. See `read`."""
        headers = request.headers
        coding = headers.get("content-encoding", "").strip().lower() or "identity"
        if coding not in (*CODINGS, "identity"):
            raise ApiError(415, f"content-encoding {coding!r} is not supported; valid are {', '.join(CODINGS)}")
        length = self._length(headers.get("content-length"))
        if length <= SMALL and coding == "identity":
            return await self._read(_Parts(request.receive)), 0
        # The decompressed size is not known in advance: until it is, hold room for the largest.
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
        # The HTTP parser has checked that the length is a number; without one, the body is chunked.
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
        """Return room to the budget."""
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
        # 32 added to the window's bits: zlib detects whether it is gzip or deflate.
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        try:
            plain = stream.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise BadRequest(f"the body cannot be decompressed: {error}") from None
        if len(plain) > self._limit:
            raise self._too_large()
        if not stream.eof or stream.unused_data:
            raise BadRequest("the body cannot be decompressed: it is incomplete, or has bytes after its end")
        return plain


class _Reading:
    """The context manager of `Bodies.read`. A class, as a generator would be slower, and every request uses it."""

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
    """A body, read as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self.complete = False
        self._receive = receive
        self._parts: list[bytes] = []
        self._size = 0

    async def read(self, most: float) -> bytes:
        """Return all bytes; if there are more than `most`, return those so far, and leave `complete` false."""
        while not self.complete and self._size <= most:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            self._parts.append(part)
            self._size += len(part)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
