"""A server's processes: started and ended, their memory, and the time of cores that they took."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    command: list[str], folder: Path, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command and, at the end, end it with all its children."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
    try:
        yield process
    finally:
        children = tree(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        # Some leave their workers behind, which would still run during the next measurement.
        for child in (process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()


def tree(process: int) -> list[int]:
    """List a process and its descendants."""
    found = [process]
    # Ray's workers start and end threads and processes all the time.
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    found += tree(int(child))
    return found


def memory(process: int) -> float:
    """Return resident megabytes of a process and its descendants. Shared pages count once per process."""
    pages = 0
    for one in tree(process):
        with suppress(FileNotFoundError, ProcessLookupError):
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def core_seconds(process: int) -> float:
    """Return the time of cores that a process and its descendants took, also those that have ended."""
    ticks = 0
    for one in tree(process):
        with suppress(FileNotFoundError, ProcessLookupError):
            ticks += ticks_of(Path(f"/proc/{one}/stat").read_text())
    return ticks / TICKS


def ticks_of(stat: str) -> int:
    """Read user and system time from /proc/PID/stat: the process's own, and of its children that have ended."""
    # The name, in parentheses, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))
