"""HTTP/1.1 as uvicorn speaks it, with limits on what may come before there is a request to answer."""

from __future__ import annotations

import asyncio
from array import array

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# The most bytes of a request's head, or of anything else that is not a body.
MAX_HEAD = 64 * 2**10
# Seconds in which a request's head must have come.
HEAD_SECONDS = 30.0


class HeadWithBody(asyncio.Transport):
    """A connection's transport for one answer: its head leaves with the first bytes of its body.

    uvicorn writes them one after the other. That would be two packets, and two wake-ups of the client, for even the
    smallest answer. A head whose body is not there yet waits until the end of the event loop's turn at most.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
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
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Protocol(HttpToolsProtocol):
    """A connection.

    One whose request does not come, or whose head does not end, is closed: uvicorn would keep it, and all its bytes,
    for ever. What is not HTTP is answered in the same form as all errors.
    """

    parser: Parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = Parser(self)
        self._part = 0  # size of the bytes that came last
        self._loose = 0  # bytes since the last body or complete head
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def data_received(self, data: bytes) -> None:
        self._part = len(data)
        super().data_received(data)
        self._loose += self._part
        if self._loose > MAX_HEAD:
            self.refuse(431, f"the request's head is too large: at most {MAX_HEAD:,} bytes")
        elif self._timer is None and (self._in_head or self._answered()):
            # Once anything has come after an answer, uvicorn no longer limits the wait for the next request.
            self._watch()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it is going to be read once more
        self._in_head = False
        self._loose = -self._part
        self._unwatch()
        earlier = self.cycle
        super().on_headers_complete()
        if self.cycle is not earlier:
            self.cycle.transport = HeadWithBody(self.transport, self.loop)

    def on_body(self, body: bytes) -> None:
        self._loose = -self._part
        self._unwatch()  # the time starts anew with each part of a body that goes on after its answer
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "this is not a valid HTTP request")

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        # Browsers open connections in advance; an answer without a request would confuse them.
        if self._in_head and self._loose:
            self.refuse(408, f"the request's head did not come within {HEAD_SECONDS:g} s")
        else:
            self.transport.close()

    def _answered(self) -> bool:
        """Tell whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def refuse(self, status: int, message: str) -> None:
        """Answer, unless another request is being answered, and close the connection."""
        if self.transport.is_closing():
            return
        if self._answered():
            body = orjson.dumps({"error": message})
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


class Parser(httptools.HttpRequestParser):
    """httptools' parser, except that requests which offer another protocol are read as if they did not (RFC 9110, 7.8).

    No offer is accepted here; there are no websockets. httptools stops at the head of each such request, and reads its
    body as the next request: behind a proxy, a stranger's body could pass for a request in another client's name.
    Java's HttpClient and `curl --http2` offer HTTP/2 by default. So such a head is parsed again without the offer.
    CONNECT counts as an offer too, and is refused.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As in uvicorn: a request that closes the connection is answered even where more bytes follow it.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
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
    version = parser.get_http_version().encode()
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), protocol.url, version)]
    for name, value in protocol.headers:
        if name == b"connection":
            value = b", ".join(token for token in map(bytes.strip, value.split(b",")) if token.lower() != b"upgrade")
        if name != b"upgrade" and (value or name != b"connection"):
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
