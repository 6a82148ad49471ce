"""Connections that send what is no request, or nothing, or many requests at once."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serve.http.uvicorn_patches import MAX_HEAD, HeadWithBody, Protocol

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


OFFER = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
OFFERS = OFFER + b"Connection: Upgrade, HTTP2-Settings"


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ending", ["", ", close"])
def test_an_offer_of_another_protocol_is_passed_over(
    server: Any, models: list[Any], encode: Encode, ending: str, chunked: bool, apart: bool
) -> None:
    """Java's HttpClient and `curl --http2` make it with each request; the body is the request's, whatever it holds."""
    model = models[0]
    picture = encode(model.images(1)[0])
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(picture), picture) if chunked else picture
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(picture)}"
    head = f"POST /classify/{model.name} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + OFFERS
    with server.connect() as connection:
        for last in (False, True):
            connection.sendall(head + (ending.encode() if last else b"") + b"\r\n\r\n" + (b"" if apart else body))
            if apart:
                time.sleep(0.1)
                connection.sendall(body)
            answer = connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"][0]["index"] == model.best(
                model.images(1)[0]
            )
        if ending:
            assert connection.recv(1) == b""


def test_a_body_behind_an_offer_is_no_request(server: Any) -> None:
    smuggled = REQUEST + b"\r\n"
    head = b"POST /classify/a.cifar10 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(smuggled)
    for rest in (b"\r\n", b", close\r\n"):
        with server.connect() as connection:
            connection.sendall(head + OFFERS + rest + b"\r\n")
            time.sleep(0.1)
            connection.sendall(smuggled + REQUEST + b"Connection: close\r\n\r\n")
            answers = read_all(connection)
        assert answers.startswith(b"HTTP/1.1 415 ")
        assert answers.count(b"HTTP/1.1 ") == (2 if rest == b"\r\n" else 1)


def test_many_offers_at_once_are_all_passed_over(server: Any) -> None:
    """More than Python's calls may be nested."""
    with server.connect() as connection:
        connection.sendall((REQUEST + OFFERS + b"\r\n\r\n") * 2000 + REQUEST + b"Connection: close\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 2001


def test_this_is_no_proxy(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\nabc")
        assert read_all(connection).startswith(b"HTTP/1.1 405 ")


# `python -m serve` with less patience.
IMPATIENT = """
import serve.http.uvicorn_patches
from serve.__main__ import main

serve.http.uvicorn_patches.HEAD_SECONDS = 1
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
        for late in (b"\r\n", b"G"):  # after an answer; what is no beginning of a request gets no answer
            with server.connect() as slow:
                slow.sendall(REQUEST + b"\r\n")
                assert b" 200 " in slow.recv(1000)
                slow.sendall(late)
                assert (b" 408 " in read_all(slow)) == (late == b"G")
        with server.connect() as slow:  # answered before its body has come
            slow.sendall(b"POST /classify/no HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            assert b" 404 " in slow.recv(1000)
            slow.sendall(b"n")
            assert read_all(slow) == b""
        with server.connect() as slow:  # nor is one cut off that goes on coming
            slow.sendall(b"POST /classify/no HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
            for _ in range(20):
                time.sleep(0.1)
                slow.sendall(b"n")
            slow.sendall(REQUEST + b"Connection: close\r\n\r\n")
            answers = read_all(slow)
            assert b" 404 " in answers
            assert b" 200 " in answers
        with server.connect() as slow:  # a body may take longer
            slow.sendall(b"POST /classify/a.cifar10 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            time.sleep(2)
            slow.sendall(b"no number")
            assert b" 415 " in slow.recv(1000)


class Recorder(asyncio.Transport):
    """What is written to a connection, piece by piece."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def pieces(requests: bytes, parts: Sequence[bytes], pause: float, length: int | None = None) -> Recorder:
    """What is written where the application answers each request with `parts`, and pauses before them."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if pause:
            await asyncio.sleep(pause)
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    config = uvicorn.Config(application, http=Protocol, log_config=None, date_header=False, server_header=False)
    config.load()
    state = ServerState()
    protocol, transport = Protocol(config, state, {}), Recorder()
    protocol.connection_made(transport)
    protocol.data_received(requests)
    while state.tasks or not protocol.cycle.response_complete:
        await asyncio.sleep(0.001)
    protocol.connection_lost(None)
    return transport


def test_the_head_leaves_with_the_first_of_the_body() -> None:
    written = asyncio.run(pieces(REQUEST + b"\r\n", [b"one", b"two"], 0, length=6)).pieces
    assert written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert written[0].endswith(b"\r\n\r\none")
    assert [piece for piece in written[1:] if piece] == [b"two"]


def test_the_head_does_not_wait_for_a_late_body() -> None:
    written = asyncio.run(pieces(REQUEST + b"\r\n", [b"one"], 0.05)).pieces
    assert written[0].endswith(b"\r\n\r\n")
    assert written[1] == b"3\r\none\r\n"
    assert b"".join(written).endswith(b"\r\n\r\n3\r\none\r\n0\r\n\r\n")


def test_a_head_for_a_client_that_has_left_goes_nowhere() -> None:
    async def leave() -> Recorder:
        transport = Recorder()
        answer = HeadWithBody(transport, asyncio.get_running_loop())
        answer.write(b"head")
        transport.close()
        await asyncio.sleep(0.01)
        return transport

    assert asyncio.run(leave()).pieces == []  # a closed transport would have raised


def test_heads_alone_come_in_order_and_before_the_end() -> None:
    head = b"HEAD / HTTP/1.1\r\nHost: x\r\n"
    transport = asyncio.run(pieces(head + b"\r\n" + head + b"Connection: close\r\n\r\n", [], 0, length=6))
    first, second = transport.pieces
    assert transport.closed
    assert b"connection: close" not in first
    assert b"connection: close" in second
