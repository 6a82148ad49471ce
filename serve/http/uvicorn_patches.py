"""All that depends on uvicorn's internals. pyproject.toml bounds uvicorn to the versions that the tests ran with.

- `Protocol` limits the time and the size of a request's head. uvicorn has no such limits (Kludex/uvicorn issue 157).
- `Parser` ignores offers of another protocol, as uvicorn should (Kludex/uvicorn issue 2722, MagicStack/httptools issue
  124): it would lose the body, or read it as the next request.
- `Protocol` also tells the running request of a pipeline that its client has left. uvicorn tells only the last one.
- `Protocol` also bounds the number of idle connections, and writes the header Date, for which uvicorn polls.
- `HeadWithBody` sends the head of a response together with its body.
- `ControlledServer` does not poll, and leaves it to its subclass when the server stops.
"""

from __future__ import annotations

import asyncio
import socket
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import ClassVar

import httptools
import orjson
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# Most bytes of a request's head, or of anything else that is not a body.
MAX_HEAD = 64 * 2**10
# Seconds for a request's head to arrive.
HEAD_SECONDS = 30.0
# Seconds to send the responses to requests that were cut off.
LAST_RESPONSES = 1.0
# Most connections that wait for another request, and the share of the file descriptors that they may take.
MAX_IDLE = 1024
IDLE_SHARE = 0.5


class ControlledServer(uvicorn.Server):
    """A server that runs until its subclass stops it.

    uvicorn handles signals by itself, checks ten times a second whether it should stop, and then closes its listening
    sockets at once, which resets connections.
    """

    async def run_until_stop(self) -> None:
        """Return when the server should stop."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Stop listening, and prepare the end of all requests. uvicorn waits for them afterwards."""
        raise NotImplementedError

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay."""
        for server in self.servers:
            server.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the subclass."""
        yield

    async def main_loop(self) -> None:
        """Wait until the server should stop."""
        await self.run_until_stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and finish the requests or cut them off."""
        await self.drain()
        await super().shutdown(sockets)
        if self.server_state.tasks:  # cut off, but their responses are still to be sent
            await asyncio.wait(self.server_state.tasks, timeout=LAST_RESPONSES)


class HeadWithBody(asyncio.Transport):
    """A connection's transport for one response, which sends the head with the first bytes of the body.

    uvicorn writes them separately: two packets, and two wake-ups of the client, for even the smallest response. A head
    waits for its body until the end of the event loop's iteration at most.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hold back the head, which comes first; send everything else."""
        if not self._begun:
            self._begun = True
            self._head = bytes(data)
            self._loop.call_soon(self._flush)
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():  # the client may have left meanwhile
            self._transport.write(head)

    def close(self) -> None:
        """Send the head if it is still here, and close the connection."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is closed or about to be."""
        return self._transport.is_closing()


class Protocol(HttpToolsProtocol):
    """A connection, which is closed if no request arrives on it, or if a request's head is too slow or too large.

    uvicorn would keep it, with all its bytes, for ever. Invalid HTTP gets an error response in the same form as all
    others.
    """

    parser: Parser
    # The connections of the process that have had a response and wait for another request, the longest idle first.
    idle: ClassVar[dict[Protocol, None]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first head."""
        super().connection_made(transport)
        self.parser = Parser(self)
        self._running: RequestResponseCycle | None = None  # of a pipeline the last that was started, not the last sent
        self._part = 0  # bytes of the data received last
        self._loose = 0  # bytes since the last complete head or part of a body
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell the running request that nobody waits for its response."""
        super().connection_lost(exc)
        self.idle.pop(self, None)
        self._unwatch()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse the data; refuse a head that is too large."""
        self._part = len(data)
        self.idle.pop(self, None)
        super().data_received(data)
        self._loose += self._part
        if self._loose > MAX_HEAD:
            self.refuse(431, f"the request's head is too large: at most {MAX_HEAD:,} bytes")
        elif self._timer is None and (self._in_head or self._responded()):
            # Once data arrives after a response, uvicorn no longer limits the wait for the next request.
            self._watch()

    def on_message_begin(self) -> None:
        """Note the start of a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head has to be parsed again."""
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._loose = -self._part
        self._unwatch()
        earlier = self.cycle
        self.server_state.default_headers = [(b"date", _date(int(time.time())))]
        super().on_headers_complete()
        if self.cycle is not earlier:
            self.cycle.transport = HeadWithBody(self.transport, self.loop)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._loose = -self._part
        self._unwatch()  # each part of a body that continues after its response starts a new wait
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request's body."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Count the connection as idle, unless it has another request; close the longest idle one if there are many."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is None or self.transport.is_closing():
            return
        self.idle[self] = None
        if len(self.idle) > _most_idle():
            longest = next(iter(self.idle))
            del self.idle[longest]
            longest.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message says the same
        """Refuse data that are not HTTP."""
        self.refuse(400, "this is not a valid HTTP request")

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        # Browsers open connections in advance; a response without a request would confuse them.
        if self._in_head and self._loose:
            self.refuse(408, f"the request's head did not arrive within {HEAD_SECONDS:g} s")
        else:
            self.transport.close()

    def _responded(self) -> bool:
        """Return whether all requests so far have their responses."""
        return self.cycle is None or self.cycle.response_complete

    def _unanswered(self) -> bool:
        """Return whether a body is being read whose request is the next to get a response; it gets no other then."""
        cycle = self.cycle
        if cycle is not self._running or not cycle.more_body or cycle.response_started:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return True

    def refuse(self, status: int, message: str) -> None:
        """Send an error response, unless another response is being sent, and close the connection."""
        if self.transport.is_closing():
            return
        if self._responded() or self._unanswered():
            body = orjson.dumps({"error": message})
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            date = b"date: %s\r\n" % _date(int(time.time()))
            self.transport.write(STATUS_LINE[status] + date + head.encode() + body)
        self.transport.close()


@lru_cache(1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


@lru_cache(1)
def _most_idle() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return MAX_IDLE
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_IDLE if descriptors == resource.RLIM_INFINITY else min(MAX_IDLE, int(descriptors * IDLE_SHARE))


class Parser(httptools.HttpRequestParser):
    """httptools' parser, which ignores offers of another protocol (RFC 9110, section 7.8).

    This server has no websockets and accepts no offer. httptools stops at the head of a request with an offer, and
    reads its body as the next request: behind a proxy, a body could pass for a request of another client. Java's
    HttpClient and `curl --http2` offer HTTP/2 by default. So such a head is parsed again without the offer. CONNECT
    counts as an offer too, and is refused.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As in uvicorn: a request that closes the connection gets a response even if more bytes follow it.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """Parse data, with a new parser after each offer."""
        parser, protocol = self, self._protocol
        while True:
            try:
                super(Parser, parser).feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if parser.get_method() == b"CONNECT":
                    protocol.refuse(405, "CONNECT is not allowed here: this is no proxy")
                    return
                head = _without_offer(parser, protocol)
                rest = bytes(data[offer.args[0] :])
                parser = protocol.parser = Parser(protocol)
                data = head + rest


def _without_offer(parser: Parser, protocol: Protocol) -> bytes:
    """Write a request's head again, without its offer of another protocol."""
    version = parser.get_http_version().encode()
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), protocol.url, version)]
    for name, value in protocol.headers:
        kept = _without_upgrade(value) if name == b"connection" else value
        if name != b"upgrade" and (kept or name != b"connection"):
            lines.append(b"%s: %s" % (name, kept))
    return b"\r\n".join([*lines, b"", b""])


def _without_upgrade(connection: bytes) -> bytes:
    tokens = map(bytes.strip, connection.split(b","))
    return b", ".join(token for token in tokens if token.lower() != b"upgrade")
