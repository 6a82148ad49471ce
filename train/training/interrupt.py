"""SIGTERM and Ctrl-C, noted for the loop to act on between two steps."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came; the state is saved."""


# Signals within so many seconds are one wish: the kernel tells of a launcher's end once for each of its threads, and
# who stops a whole job (Slurm, systemd) signals launcher and training both.
ONE_WISH_SECONDS = 2.0


@dataclass
class Stop:
    """Whether a signal came, and when by `time.monotonic`."""

    requested: bool = False
    since: float = 0.0


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or Ctrl-C; a later one acts as it would have without this."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        if not stop.requested:
            stop.requested, stop.since = True, time.monotonic()
        elif time.monotonic() - stop.since > ONE_WISH_SECONDS:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

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
