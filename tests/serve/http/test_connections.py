"""Connections that send invalid data, or nothing, or many requests at once."""

import asyncio
import itertools
import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serve.http.uvicorn_patches import HEAD_SECONDS, MAX_HEAD, HeadWithBody, Protocol

Encode = Callable[..., bytes]
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
LAST = REQUEST + b"Connection: close\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    with running("--models", models[0].folder.parent, "--no-app", "--timeout", 3, "--keep-alive", 2) as server:
        yield server


def read_all(connection: socket.socket) -> bytes:
    """Receive until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_a_body_that_does_not_arrive_is_given_up(server: Any) -> None:
    with ExitStack() as stack:
        stalled = []
        for length, sent in itertools.product((4, 100_000), (b"", b"few")):
            stalled.append(stack.enter_context(server.connect()))
            stalled[-1].sendall(POST % (b"/classify/a.cifar10", length) + sent)
        for connection in stalled:
            assert b" 408 " in connection.recv(1000)


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


CHUNKS = CHUNKED.removesuffix(b"2\r\n{}\r\n0\r\n")


@pytest.mark.parametrize(
    "data",
    [
        CHUNKS.replace(b"chunked", b"gzip"),
        CHUNKS.replace(b"chunked", b"xchunked"),
        CHUNKS + b"zz\r\n",
        CHUNKS + b"-2\r\n{}\r\n",
        CHUNKS + b"ffffffffffffffffff\r\n",
        CHUNKS + b"2\n{}\n0\n\n",
        CHUNKS + b"2\r\n{}0\r\n\r\n",
    ],
)
def test_a_body_that_cannot_be_read_gets_a_response(server: Any, data: bytes) -> None:
    """RFC 9112, section 6.3, demands it for an unknown transfer coding."""
    with server.connect() as connection:
        connection.sendall(data)
        responses = read_all(connection)
    assert responses.startswith(b"HTTP/1.1 400 ")
    assert responses.count(b"HTTP/1.1 ") == 1


def test_a_broken_request_does_not_answer_the_one_before_it(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode
) -> None:
    """The first of a pipeline still runs when the second turns out to be none."""
    model = tiny(tmp_path / "slow").write(cost=50)
    body = encode(model.images(1)[0])
    with running("--models", tmp_path, "--no-app") as server:
        for second in (b"hello\r\n\r\n", CHUNKS + b"zz\r\n"):
            with server.connect() as connection:
                connection.sendall(POST % (b"/classify/slow", len(body)) + body + second)
                assert b" 400 " not in read_all(connection)


def test_a_trailer_without_end_is_not_kept(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(CHUNKED + b"X: " + b"x" * MAX_HEAD)
        assert b"431" not in read_all(connection)  # the response to the request may have been sent before


def test_pipelined_requests_all_get_responses(server: Any, models: list[Any], encode: Encode) -> None:
    """They are sent together, cut at any place; their bodies are larger than a head may be."""
    model = models[0]
    body = encode(model.images(1)[0]) + bytes(100_000)
    head = f"POST /classify/{model.name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    data = (head + body) * 3 + CHUNKED + b"\r\n" + LAST
    for cut in (len(data), 10, len(head) + 5, len(head) + len(body) + 5, len(data) - 5):
        with server.connect() as connection:
            connection.sendall(data[:cut])
            time.sleep(0.1)
            connection.sendall(data[cut:])
            assert read_all(connection).count(b"HTTP/1.1 200 OK") == 5


def test_the_limit_is_for_each_head_alone(server: Any) -> None:
    count = MAX_HEAD // len(REQUEST) + 100
    with server.connect() as connection:
        connection.sendall((REQUEST + b"\r\n") * count + LAST)
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == count + 1


OFFER = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
OFFERS = OFFER + b"Connection: Upgrade, HTTP2-Settings"


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ending", ["", ", close"])
def test_an_offer_of_another_protocol_is_ignored(
    server: Any, models: list[Any], encode: Encode, ending: str, chunked: bool, apart: bool
) -> None:
    """Java's HttpClient and `curl --http2` offer HTTP/2 with each request. The body still belongs to the request."""
    model = models[0]
    image = encode(model.images(1)[0])
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image) if chunked else image
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(image)}"
    head = f"POST /classify/{model.name} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + OFFERS
    with server.connect() as connection:
        for last in (False, True):
            connection.sendall(head + (ending.encode() if last else b"") + b"\r\n\r\n" + (b"" if apart else body))
            if apart:
                time.sleep(0.1)
                connection.sendall(body)
            response = connection.recv(10_000)
            assert response.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(response.partition(b"\r\n\r\n")[2])["predictions"][0]["index"] == model.best(
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
            connection.sendall(smuggled + LAST)
            responses = read_all(connection)
        assert responses.startswith(b"HTTP/1.1 415 ")
        assert responses.count(b"HTTP/1.1 ") == (2 if rest == b"\r\n" else 1)


def test_many_offers_at_once_are_all_ignored(server: Any) -> None:
    """More than Python allows nested calls."""
    with server.connect() as connection:
        connection.sendall((REQUEST + OFFERS + b"\r\n\r\n") * 2000 + LAST)
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


def test_a_head_that_does_not_arrive_is_given_up(models: list[Any], running: Any) -> None:
    arguments = ("--models", models[0].folder.parent, "--no-app", "--timeout", 3)
    with running(*arguments, program=("-c", IMPATIENT)) as server, server.connect() as silent, server.connect() as slow:
        slow.sendall(REQUEST)
        assert b" 408 " in read_all(slow)
        assert read_all(silent) == b""


class Recorder(asyncio.Transport):
    """A transport that notes each piece that is written to it."""

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


class Patience(selectors.DefaultSelector):
    """A selector for which time passes at once when there is nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.seconds += timeout or 0.0
        return super().select(0)


def patient_loop() -> asyncio.AbstractEventLoop:
    """An event loop with a clock of its own, which no other process can slow down."""
    selector = Patience()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.seconds  # type: ignore[method-assign]
    return loop


async def _statuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond at once, but for /read after the body."""
    while scope["path"] == "/read" and (await receive())["more_body"]:
        pass
    status = {"/no": 404, "/read": 415}.get(scope["path"], 200)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def exchange(*steps: bytes | float) -> Recorder:
    """Send bytes to a connection, and let seconds pass; return what it writes."""

    async def work() -> Recorder:
        config = uvicorn.Config(_statuses, http=Protocol, log_config=None, date_header=False, server_header=False)
        protocol, transport = Protocol(config, ServerState(), {}), Recorder()
        protocol.connection_made(transport)
        for step in steps:
            assert not transport.closed
            if isinstance(step, bytes):
                protocol.data_received(step)
            await asyncio.sleep(0.001 if isinstance(step, bytes) else step)
        protocol.connection_lost(ConnectionResetError())  # closes nothing itself
        return transport

    with asyncio.Runner(loop_factory=patient_loop) as runner:
        return runner.run(work())


ALMOST, LONGER = HEAD_SECONDS - 0.1, HEAD_SECONDS + 0.1


@pytest.mark.parametrize(
    ("steps", "statuses", "closed"),
    [
        pytest.param([ALMOST], [], False, id="silent"),
        pytest.param([LONGER], [], True, id="silent for too long"),
        pytest.param([REQUEST, ALMOST], [], False, id="slow"),
        pytest.param([REQUEST, LONGER], [408], True, id="too slow"),
        pytest.param([10.0, REQUEST, 10.0, b"X: x\r\n", 10.1], [408], True, id="each part in time, the head too slow"),
        pytest.param([REQUEST, ALMOST, b"\r\n"], [200], False, id="just in time"),
        pytest.param([REQUEST + b"\r\n", 4.0, REQUEST, ALMOST], [200], False, id="second head"),
        pytest.param([REQUEST + b"\r\n", 4.0, REQUEST, LONGER], [200, 408], True, id="second head too slow"),
        # What is no beginning of a request gets no response.
        pytest.param([REQUEST + b"\r\n", b"\r\n", LONGER], [200], True, id="empty line after a response"),
        pytest.param([REQUEST + b"\r\n", b"G", LONGER], [200, 408], True, id="first byte after a response"),
        pytest.param([POST % (b"/no", 9), b"n", LONGER], [404], True, id="body that stops after its response"),
        pytest.param(
            [POST % (b"/no", 20), *[4.0, b"n"] * 20, LAST],
            [404, 200],
            True,
            id="body that continues after its response",
        ),
        pytest.param([POST % (b"/read", 9), 2 * LONGER, b"no number"], [415], False, id="slow body"),
    ],
)
def test_a_head_has_limited_time(steps: list[bytes | float], statuses: list[int], closed: bool) -> None:
    transport = exchange(*steps)
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", b"".join(transport.pieces))] == statuses
    assert transport.closed == closed


async def pieces(requests: bytes, parts: Sequence[bytes], pause: float, length: int | None = None) -> Recorder:
    """Send requests to an application that responds with `parts` after a pause; return what is written."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if pause:
            await asyncio.sleep(pause)
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    config = uvicorn.Config(application, http=Protocol, log_config=None, date_header=False, server_header=False)
    state = ServerState()
    protocol, transport = Protocol(config, state, {}), Recorder()
    protocol.connection_made(transport)
    protocol.data_received(requests)
    while state.tasks:  # the next request of a pipeline starts as the one before it ends
        await asyncio.wait(state.tasks)
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
        response = HeadWithBody(transport, asyncio.get_running_loop())
        response.write(b"head")
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
