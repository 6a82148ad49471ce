"""SIGTERM and Ctrl-C: noted, for the loop to act on between two steps."""

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
    """SIGTERM or Ctrl-C came, and the state is saved."""


# Signals within this time count as one: the kernel sends one for each of a launcher's threads that ends, and Slurm or
# systemd signal the launcher and the training.
ONE_REQUEST_SECONDS = 2.0


@dataclass
class Stop:
    """Whether a signal came, and when, by `time.monotonic`."""

    requested: bool = False
    since: float = 0.0


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or Ctrl-C; a later one has its usual effect."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _frame: FrameType | None) -> None:
        if not stop.requested:
            stop.requested, stop.since = True, time.monotonic()
        elif time.monotonic() - stop.since > ONE_REQUEST_SECONDS:
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
    """Get a SIGTERM when `accelerate launch`, where that started this process, ends for whatever reason.

    The launcher forwards no signals: stopped by anything but Ctrl-C, it would leave an unnoticed training behind. Only
    Linux supports this. Other parents, such as a shell that started a run in the background, may end without it.
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
        if os.getppid() != parent:  # it ended just now
            os.kill(os.getpid(), signal.SIGTERM)
