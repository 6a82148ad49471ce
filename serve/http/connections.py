"""Clients that leave: the work for their requests is cancelled."""

import asyncio
from types import TracebackType

from starlette.types import Receive

from serve.http.bodies import Gone

# Seconds of work before the first check whether the client still waits. Most requests are finished by then, and a task
# that watches each of them from the start would add a quarter to the server's time per request.
SOON = 0.1


class ClientWaits:
    """A context manager that cancels the work inside it when the client leaves, and then raises Gone.

    The request's body must have been read before.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._work = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(SOON, self._start_watching)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._work is not None:
            self._work.uncancel()
            raise Gone from None

    def _start_watching(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._work is not None:
            self._work.cancel()
