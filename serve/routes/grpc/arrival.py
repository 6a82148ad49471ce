"""The messages of calls, within limits of time, memory and structure.

gRPC hands over whole messages, and tells neither their length in advance nor how much of them has arrived. A message up
to 64 KiB comes with the call's head. So a call whose message is not there soon is slow, or large, or only announced:
only some calls may be in that state, and the others never wait for them.
"""

import asyncio
from typing import Any

from serve.errors import ApiError, BadRequest, Overloaded
from serve.http.bodies import SMALL, Bodies
from serve.settings import Settings

# Seconds after which a message that has not arrived counts as slow.
SOON = 0.05
# Most calls whose messages are slow. Each may hold a message of the largest size in the library's memory.
MAX_SLOW = 32


class Arrivals:
    """Reads the messages of calls."""

    def __init__(self, settings: Settings, bodies: Bodies) -> None:
        self.bodies = bodies
        self.slow = 0
        self._seconds = settings.timeout

    async def read(self, context: Any) -> bytes:
        """Read the message of a call with only one.

        Raises:
            ApiError: 400 if there is none, 408 if it does not arrive in time, 503 if too many others do neither.
        """
        return await _Arrival(self, context, self._seconds).read()

    def room(self, message: bytes) -> "_Room":
        """Return a context manager that holds room for a message that has arrived, in the memory for HTTP's bodies."""
        return _Room(self.bodies, len(message))


class _Arrival:
    """A call whose message is awaited."""

    def __init__(self, arrivals: Arrivals, context: Any, seconds: float) -> None:
        self._arrivals = arrivals
        self._context = context
        self._seconds = seconds
        self._slow = self._refused = False

    async def read(self) -> bytes:
        timer = asyncio.get_running_loop().call_later(SOON, self._not_soon)
        try:
            async with asyncio.timeout(self._seconds) as self._limit:
                message = await self._context.read()
        except TimeoutError:
            if self._refused:
                raise Overloaded("too many messages arrive slowly") from None
            raise ApiError(408, f"the message did not arrive within {self._seconds:g} s") from None
        finally:
            timer.cancel()
            self._arrivals.slow -= self._slow
        if not isinstance(message, bytes):  # the library's mark for the end of a call
            raise BadRequest("the call ended without a message")
        return message

    def _not_soon(self) -> None:
        if self._arrivals.slow < MAX_SLOW:
            self._slow = True
            self._arrivals.slow += 1
        else:
            self._refused = True
            self._limit.reschedule(0)


class _Room:
    """The context manager of `Arrivals.room`."""

    def __init__(self, bodies: Bodies, size: int) -> None:
        self._bodies = bodies
        self._size = size

    async def __aenter__(self) -> None:
        self._held = await self._bodies.reserve(self._size) if self._size > SMALL else 0

    async def __aexit__(self, *error: object) -> None:
        await self._bodies.release(self._held)
