"""Wait for a running server, and read its metrics."""

import time
from collections.abc import Callable

import httpx


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait for `condition`; return whether it became true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def sample(url: str, name: str) -> float:
    """Return the sum of the metrics whose lines start with `name`."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
