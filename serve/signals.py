"""The signals that end the process."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any


def ending_signals() -> list[int]:
    """Return the signals that end the server: SIGTERM, SIGINT, and SIGHUP unless it is ignored, as under nohup."""
    found: list[int] = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


class OnShutdown:
    """An async context manager that starts `work` once a signal arrives, and cancels it at the end of the context.

    An ASGI server tells the application of its shutdown only after the last response has ended. So this takes the
    signal first and then passes it on to the server's handler. A server that sets its handlers later does its own work
    (serve.server).
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._earlier: dict[int, Any] = {}

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():  # it could not set handlers
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(signal.getsignal(number)):
                self._earlier[number] = signal.signal(number, self._handle)

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
        for number, earlier in self._earlier.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, earlier)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin)
        self._earlier[number](number, frame)

    def _begin(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._work())
