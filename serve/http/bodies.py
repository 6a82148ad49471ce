"""Request bodies, with a limit on the bytes of each (also after decompression) and of all together."""

import asyncio
import math
import zlib
from collections.abc import Iterator
from types import TracebackType

from starlette.requests import Request
from starlette.types import Receive

from serve.errors import ApiError, BadRequest, Overloaded
from serve.settings import Settings

# Bodies up to this many bytes are not counted: a thousand of them take little memory.
SMALL = 64 * 2**10
CODINGS = ("gzip", "x-gzip", "deflate")
# A gzip file may consist of any number of members. Programs that work in blocks write one for about 64 KB.
GZIP = b"\x1f\x8b"
MAX_MEMBERS = 10_000
PIECE = 64 * 2**10
# The parts of larger bodies are joined in another thread.
SLOW_JOIN = 4 * 2**20


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
        self._all_room = self._room = 2 * max(settings.max_body, SMALL)
        self._changed = asyncio.Condition()

    def read(self, request: Request, limit: int | None = None) -> "_Reading":
        """Return a context manager for the body, decompressed. The body keeps its room until the context ends.

        Args:
            request: The request.
            limit: Most bytes of its body; by default, those of the settings.

        Raises:
            ApiError: On entering the context. 400 if the body cannot be decompressed, 408 if it does not arrive, 413 if
                it is too large, 415 for an unknown content-encoding, 503 if no room became free.
        """
        return _Reading(self, request, limit)

    async def take(self, request: Request, limit: int | None = None) -> tuple[bytes, int]:
        """Read the body; return it and the number of bytes to `release` later. See `read`."""
        limit = self._limit if limit is None else limit
        headers = request.headers
        coding = headers.get("content-encoding", "").strip().lower() or "identity"
        if coding not in (*CODINGS, "identity"):
            raise ApiError(415, f"content-encoding {coding!r} is not supported; valid are {', '.join(CODINGS)}")
        length = self._length(headers.get("content-length"), limit)
        if length <= SMALL and coding == "identity" and "content-length" in headers:
            return await self._read(_Parts(request.receive)), 0
        # The decompressed size is not known in advance: until it is, hold room for the largest.
        plain = 0 if coding == "identity" else limit
        held = 0
        try:
            parts = _Parts(request.receive)
            body = await self._read(parts, SMALL)
            if not parts.complete:
                held = await self.reserve(length + plain)
                body = await self._read(parts, limit)
            if len(body) > limit:
                raise self._too_large(limit)
            if plain:
                held = held or await self.reserve(plain)
                body = await asyncio.to_thread(self._decompress, body, limit)
                kept = min(len(body), held) if len(body) > SMALL else 0
                spare, held = held - kept, kept
                await self.release(spare)
        except BaseException:
            await self.release(held)
            raise
        return body, held

    def _length(self, header: str | None, limit: int) -> int:
        # The HTTP parser has checked that the length is a number; without one, the body is chunked.
        length = limit if header is None else int(header)
        if length > limit:
            raise self._too_large(limit)
        return length

    def _too_large(self, limit: int) -> ApiError:
        return ApiError(413, f"the body is too large: at most {limit:,} bytes, also after decompression")

    async def reserve(self, size: int) -> int:
        """Take room for `size` bytes from the budget, once it is free, and return how much to `release` later.

        Raises:
            Overloaded: If none became free in time.
        """
        size = min(size, self._all_room)
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

    def _decompress(self, body: bytes, limit: int) -> bytes:
        # 32 added to the window's bits: zlib detects whether it is gzip or deflate.
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        try:
            plain = stream.decompress(body, limit + 1)
            if len(plain) > limit:
                raise self._too_large(limit)
            if stream.unused_data.startswith(GZIP) and body.startswith(GZIP):
                rest = memoryview(body)[len(body) - len(stream.unused_data) :]
                return b"".join([plain, *self._members(rest, limit + 1 - len(plain), limit)])
        except zlib.error as error:
            raise BadRequest(f"the body cannot be decompressed: {error}") from None
        if not stream.eof or stream.unused_data:
            raise BadRequest("the body cannot be decompressed: it is incomplete, or has bytes after its end")
        return plain

    def _members(self, data: memoryview, room: int, limit: int) -> Iterator[bytes]:
        """Decompress the further members of a gzip file to fewer than `room` bytes."""
        for _ in range(MAX_MEMBERS):
            stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            # In pieces: what follows a member would be copied, once for each of them.
            while data and not stream.eof:
                part = stream.decompress(data[:PIECE], room)
                data = data[PIECE:] if not stream.eof else data[len(data[:PIECE]) - len(stream.unused_data) :]
                room -= len(part)
                if room <= 0:
                    raise self._too_large(limit)
                yield part
            if not stream.eof:
                raise BadRequest("the body cannot be decompressed: it is incomplete")
            if not data:
                return
        raise BadRequest(f"the body cannot be decompressed: more than {MAX_MEMBERS:,} gzip members")


class _Reading:
    """The context manager of `Bodies.read`. A class, as a generator would be slower, and every request uses it."""

    def __init__(self, bodies: Bodies, request: Request, limit: int | None) -> None:
        self._bodies = bodies
        self._request = request
        self._limit = limit

    async def __aenter__(self) -> bytes:
        body, self._held = await self._bodies.take(self._request, self._limit)
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
        if len(self._parts) == 1:
            return self._parts[0]
        join = b"".join
        return join(self._parts) if self._size <= SLOW_JOIN else await asyncio.to_thread(join, self._parts)
