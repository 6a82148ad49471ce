"""Streams of requests: answered in order, several at a time, and not kept for ever."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from serve.errors import Overloaded

# Most streams at a time. Each may hold an incomplete message of the largest size in the library's memory.
MAX_STREAMS = 64
# Seconds without a message in either direction after which a stream makes room for a new one.
IDLE = 1.0
# Most requests of one stream that are answered at a time.
WINDOW = 32

Answer = Callable[[bytes], Coroutine[Any, Any, bytes]]


class Streams:
    """The open streams."""

    def __init__(self) -> None:
        self._open: dict[_Stream, None] = {}  # the one without a message for longest first
        self._draining = False

    async def run(self, context: Any, answer: Answer) -> None:
        """Answer the requests of a stream until it ends.

        Args:
            context: The library's context of the call.
            answer: From a request's bytes to its response's; it raises nothing.

        Raises:
            Overloaded: If there are too many streams, this one made room for another, or the server shuts down.
        """
        if self._draining:
            raise Overloaded("the server is shutting down")
        if len(self._open) >= MAX_STREAMS:
            idle = next(iter(self._open))
            if time.monotonic() - idle.used < IDLE:
                raise Overloaded("too many streams")
            idle.displace()
            del self._open[idle]
        stream = _Stream(context, answer, self._used)
        self._used(stream)
        try:
            await stream.run()
        finally:
            self._open.pop(stream, None)
        if self._draining:
            raise Overloaded("the server is shutting down")

    def _used(self, stream: "_Stream") -> None:
        self._open.pop(stream, None)
        self._open[stream] = None

    def drain(self) -> None:
        """End all streams once the requests that have arrived are answered; refuse new ones."""
        self._draining = True
        for stream in self._open:
            stream.stop_reading()


class _Stream:
    """A stream: reads requests ahead, and writes their responses in order."""

    def __init__(self, context: Any, answer: Answer, used: Callable[["_Stream"], None]) -> None:
        self.used = time.monotonic()
        self._context = context
        self._answer = answer
        self._note = used
        self._window = asyncio.Semaphore(WINDOW)
        self._answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._displaced = False

    async def run(self) -> None:
        self._work = asyncio.current_task()
        self._reading = asyncio.create_task(self._read())
        task: asyncio.Task[bytes] | None = None
        try:
            while (task := await self._answers.get()) is not None:
                await self._context.write(await task)
                self._window.release()
                self._touch()
            await self._stopped_reading()
        except asyncio.CancelledError:
            if self._displaced and self._work is not None:
                self._work.uncancel()
                raise Overloaded("this stream was idle for longest, and made room for another") from None
            raise
        finally:
            self._reading.cancel()
            while task is not None:
                task.cancel()
                task = None if self._answers.empty() else self._answers.get_nowait()

    async def _stopped_reading(self) -> None:
        with suppress(asyncio.CancelledError):  # by `stop_reading`
            await self._reading

    async def _read(self) -> None:
        try:
            while isinstance(body := await self._context.read(), bytes):
                self._touch()
                await self._window.acquire()
                self._answers.put_nowait(asyncio.create_task(self._answer(body)))
        finally:
            self._answers.put_nowait(None)

    def _touch(self) -> None:
        self.used = time.monotonic()
        self._note(self)

    def displace(self) -> None:
        """End the stream now."""
        self._displaced = True
        if self._work is not None:
            self._work.cancel()

    def stop_reading(self) -> None:
        """End the stream after the responses to what has arrived."""
        self._reading.cancel()
