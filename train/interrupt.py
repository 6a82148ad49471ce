"""SIGTERM and Ctrl-C, noted for the loop to act on between two steps."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


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


def follow_launcher() -> None:
    """Have `accelerate launch`, where that started this process, hand on its end as SIGTERM, however it came.

    It hands on no signals itself: stopped by anything but Ctrl-C, it would leave a training behind that nobody sees.
    Only Linux can do it. Another parent, a shell that has begun a run in the background, may go and the run stays.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return
    if b"accelerate" in command and b"launch" in command:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went just now
            os.kill(os.getpid(), signal.SIGTERM)
