"""The responses that do not end, of which each open page has one: their number, and their end on a signal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve.errors import Overloaded

# How many may be open. Fewer than the sessions that are kept.
STREAMS = 500


class Streams:
    """The tasks of the responses that do not end; iterate over it to cancel them.

    Attributes:
        sessions: How many streams each session has open.
    """

    def __init__(self) -> None:
        self.sessions = Counter[str]()
        self._tasks = set[asyncio.Task[Any]]()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))

    def __contains__(self, task: object) -> bool:
        return task in self._tasks

    @contextmanager
    def hold(self, session: str) -> Iterator[None]:
        """Count the current task as a stream of `session`. Raises ApiError: 503."""
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
