"""Offers of another protocol, which HTTP/1.1 lets a server ignore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from array import array

    from serve.protocol import Protocol


class Parser(httptools.HttpRequestParser):
    """httptools' parser, but for requests that offer another protocol: they are what they would be without the offer
    (RFC 9110, 7.8). None is taken here; there are no websockets.

    httptools stops at the head of each such request, and reads its body as the next one: with the server behind a
    proxy, a stranger's body could be a request in another's name. Java's HttpClient and `curl --http2` offer HTTP/2 by
    themselves. So such a head is read anew without the offer. CONNECT counts as one too, and has no answer here.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # Lets the answer to a request that closes the connection go out where more bytes follow it, as uvicorn has it.
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
