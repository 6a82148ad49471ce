"""Requests to a running server, and its metrics."""

import time
from collections.abc import Callable
from functools import partial

import httpx

# Servers under test use no TLS, and the system's certificates take 25 ms to load for each request.
get = partial(httpx.get, verify=False)
post = partial(httpx.post, verify=False)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait for `condition`; return whether it became true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def sample(url: str, name: str) -> float:
    """Return the sum of the metrics whose lines start with `name`."""
    lines = get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
