"""SIGTERM and Ctrl-C, noted for the loop to act on between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came; the state is saved."""


@dataclass
class Stop:
    """Whether a signal came."""

    requested: bool = False


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or Ctrl-C; a second one acts as it would have without this."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
