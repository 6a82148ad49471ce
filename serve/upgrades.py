"""Requests that offer another protocol, which HTTP/1.1 lets a server ignore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from array import array

    from serve.protocol import Protocol


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
