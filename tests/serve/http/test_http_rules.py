"""HTTP's rules for every request and response, and connections that are idle."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from serve.http.uvicorn_patches import MAX_HEAD

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
LAST = REQUEST + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    with running("--models", models[0].folder.parent, "--no-app") as server:
        yield server


def test_every_response_has_a_date(server: Any) -> None:
    for data in (LAST, b"hello\r\n\r\n", REQUEST + b"X: " + b"x" * MAX_HEAD):
        with server.connect() as connection:
            connection.sendall(data)
            (date,) = re.findall(rb"\r\ndate: ([^\r]+)\r\n", connection.recv(2**16), re.IGNORECASE)
            assert parsedate_to_datetime(date.decode()).tzinfo == UTC


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nHost: \r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nHost: a b\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n", b"400"),
        (b"GET /v2 HTTP/1.0\r\n", b"200"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n", b"200"),
    ],
)
def test_a_request_names_one_host(server: Any, head: bytes, status: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 " + status)


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_idle_connections_take_half_of_the_file_descriptors(models: list[Any], running: Any) -> None:
    """Beyond that, the one that has been idle for the longest is closed, and others are served."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "
        "from serve.__main__ import main; main()"
    )
    with (
        running("--models", models[0].folder.parent, "--no-app", program=("-c", program)) as server,
        ExitStack() as stack,
    ):
        connections = []
        for _ in range(200):
            connections.append(stack.enter_context(server.connect()))
            connections[-1].sendall(REQUEST + b"\r\n")
            assert connections[-1].recv(2**16).startswith(b"HTTP/1.1 200")
        assert connections[0].recv(1) == b""
        connections[-1].sendall(LAST)
        assert connections[-1].recv(2**16).startswith(b"HTTP/1.1 200")
