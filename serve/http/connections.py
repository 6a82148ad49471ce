"""Clients that leave: their requests are dropped."""

import asyncio
from types import TracebackType

from starlette.types import Receive

from serve.http.bodies import Gone

# Seconds of work after which it is worth checking whether the client still waits: most requests are answered by then,
# and watching each of them from its start would add a quarter to the server's time for it.
SOON = 0.1


class ClientWaits:
    """A context in which a request's work goes on only as long as its client waits; it raises Gone when it has left.

    The body must have been read before.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._work = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(SOON, self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._work is not None:
            self._work.uncancel()
            raise Gone from None

    def _look(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_leaving())

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._work is not None:
            self._work.cancel()
