"""Connections that send what is no request, or nothing, or many requests at once."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serve.protocol import MAX_HEAD

Encode = Callable[..., bytes]
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    with running("--models", models[0].folder.parent, "--no-app", "--timeout", 3) as server:
        yield server


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(2**16), b""))


@pytest.mark.parametrize("sent", [b"", b"few"])
@pytest.mark.parametrize("length", [4, 100_000])
def test_a_body_that_does_not_come_is_given_up(server: Any, length: int, sent: bytes) -> None:
    with server.connect() as stalled:
        head = f"POST /classify/a.cifar10 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        stalled.sendall(head.encode() + sent)
        assert b" 408 " in stalled.recv(1000)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (REQUEST + b"Content-Length: -1\r\n\r\n", 400),
        (REQUEST + b"X: " + b"x" * MAX_HEAD, 431),
        (REQUEST + b"X: x\r\n" * (MAX_HEAD // 6), 431),
        (b"GET /" + b"x" * MAX_HEAD, 431),
        (b"\r\n" * (MAX_HEAD // 2 + 1), 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server: Any, data: bytes, status: int) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"content-length: {len(body)}" in head.decode()
    assert list(json.loads(body)) == ["error"]


def test_a_trailer_without_end_is_not_kept(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(CHUNKED + b"X: " + b"x" * MAX_HEAD)
        assert b"431" not in read_all(connection)  # the answer to the request may have come before


def test_requests_one_behind_the_other_are_all_answered(server: Any, models: list[Any], encode: Encode) -> None:
    """Sent at once, cut at any place; their bodies may be larger than a head."""
    model = models[0]
    body = encode(model.images(1)[0]) + bytes(100_000)
    head = f"POST /classify/{model.name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    data = (head + body) * 3 + CHUNKED + b"\r\n" + REQUEST + b"Connection: close\r\n\r\n"
    for cut in (len(data), 10, len(head) + 5, len(head) + len(body) + 5, len(data) - 5):
        with server.connect() as connection:
            connection.sendall(data[:cut])
            time.sleep(0.1)
            connection.sendall(data[cut:])
            assert read_all(connection).count(b"HTTP/1.1 200 OK") == 5


def test_the_limit_is_for_each_head_alone(server: Any) -> None:
    count = MAX_HEAD // len(REQUEST) + 100
    with server.connect() as connection:
        connection.sendall((REQUEST + b"\r\n") * count + REQUEST + b"Connection: close\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == count + 1


# `python -m serve` with less patience.
IMPATIENT = """
import serve.protocol
from serve.__main__ import main

serve.protocol.HEAD_SECONDS = 1
main()
"""


def test_a_head_that_does_not_come_is_given_up(models: list[Any], running: Any) -> None:
    arguments = ("--models", models[0].folder.parent, "--no-app", "--timeout", 3)
    with running(*arguments, program=("-c", IMPATIENT)) as server:
        with server.connect() as silent:
            assert read_all(silent) == b""
        with server.connect() as slow:
            slow.sendall(REQUEST)
            assert b" 408 " in read_all(slow)
        with server.connect() as slow:  # its second head
            slow.sendall(REQUEST + b"\r\n")
            assert b" 200 " in slow.recv(1000)
            slow.sendall(REQUEST)
            assert b" 408 " in read_all(slow)
        with server.connect() as slow:  # a body may take longer
            slow.sendall(b"POST /classify/a.cifar10 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            time.sleep(2)
            slow.sendall(b"no number")
            assert b" 415 " in slow.recv(1000)
