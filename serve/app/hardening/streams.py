"""The responses that do not end, of which each open page has one: their number, and their end on a signal."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from serve.errors import ApiError, Overloaded

# How many may be open. Fewer than the sessions that are kept.
STREAMS = 500


class Streams:
    """The tasks of the responses that do not end; iterate over it to cancel them.

    Attributes:
        sessions: How many streams each session has open.
        closed: Whether no further ones are accepted, since the server is about to stop.
    """

    def __init__(self) -> None:
        self.sessions = Counter[str]()
        self.closed = False
        self._tasks = set[asyncio.Task[Any]]()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))

    def __contains__(self, task: object) -> bool:
        return task in self._tasks

    @contextmanager
    def hold(self, session: str) -> Iterator[None]:
        """Count the current task as a stream of `session`. Raises ApiError: 503."""
        if self.closed:
            raise ApiError(503, "the server is shutting down", retry_after=1)
        if len(self._tasks) >= STREAMS:
            raise Overloaded(f"too many pages are open: at most {STREAMS}")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.sessions[session] += 1
        try:
            yield
        finally:
            self._tasks.discard(task)
            self.sessions[session] -= 1
            if not self.sessions[session]:
                del self.sessions[session]

    def close(self) -> None:
        """End all streams, and accept no further ones."""
        self.closed = True
        for task in self:
            task.cancel()

    @asynccontextmanager
    async def closed_by_signals(self) -> AsyncIterator[None]:
        """End the streams on SIGTERM and SIGINT, whichever server handles these signals.

        uvicorn on its own waits for all responses, and so for ever for an open page. The server of `python -m serve`
        ends the streams itself, after it has lingered: it replaces these handlers.
        """
        self.closed = False
        loop = asyncio.get_running_loop()

        def chained(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.close)
            before[number](number, frame)

        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                if callable(handler):
                    before[number] = handler
                    signal.signal(number, chained)
        try:
            yield
        finally:
            for changed, handler in before.items():
                if signal.getsignal(changed) is chained:
                    signal.signal(changed, handler)
