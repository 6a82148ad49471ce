"""Hostile clients: each sends what no honest client would, to any of the server's routes, and leaves.

`targets` lists the routes from the application itself, so that a new route is attacked as well.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

MAX_BODY = 2**20
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "get")
# What the app's calls are named, and one that it has not.
CALLS = ("classify_digit", "classify_picture", "compare", "models", "nothing")
# Seconds after which a client has enough of a response that does not end.
PATIENCE = 0.5

Target = tuple[str, str]


def targets(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[Target]:
    """List method and path of each route below `routes`. Raises TypeError for a route of a kind that is not known."""
    for route in routes:
        if isinstance(route, Mount) and isinstance(route.app, StaticFiles):
            yield "GET", f"{prefix}{route.path}/{{path:path}}"
        elif isinstance(route, Mount):
            yield from targets(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            for method in route.methods or ():
                yield method, prefix + route.path
        elif hasattr(route, "original_router"):  # FastAPI's, for a router that was included
            yield from targets(route.original_router.routes, prefix)
        else:
            raise TypeError(f"{route!r} is of no kind that is known here")


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    """Write a form; each part begins with the parameters of its Content-Disposition."""
    return b"".join(b"--%s\r\nContent-Disposition: form-data; %s\r\n" % (boundary, part) for part in parts) + end


FORM = "multipart/form-data; boundary=x"


class Strangers:
    """Clients that attack all `targets` in all ways, in an order that `seed` decides.

    Attributes:
        seen: how often each route was attacked.
        statuses: how many responses had each status.
        wrong: responses that no client should get.
    """

    def __init__(self, url: str, routes: list[Target], images: list[bytes], models: list[str], seed: int) -> None:
        self.seen: Counter[Target] = Counter()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._routes = list(routes)
        self._images = images
        self._models = models
        self._random = random.Random(seed)
        self._plan = self._planned()

    async def attack(self, seconds: float, clients: int) -> None:
        """Attack for some seconds with that many clients at once."""
        end = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < end:
                attack, (method, template) = next(self._plan)
                self.seen[method, template] += 1
                with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                    await attack(method, self._path(template))

        await asyncio.gather(*(client() for _ in range(clients)))

    def _planned(self) -> Iterator[tuple[Callable[[str, str], Awaitable[None]], Target]]:
        """Pair attacks and routes: each route once before any comes again, and in the end each with each attack."""
        attacks = [getattr(self, name) for name in dir(type(self)) if name.startswith("send_")]
        while True:
            self._random.shuffle(attacks)
            self._random.shuffle(self._routes)
            for shift in range(len(attacks)):
                for number, route in enumerate(self._routes):
                    yield attacks[(number + shift) % len(attacks)], route

    def _path(self, template: str) -> str:
        """Fill in the parameters of a path: names that exist, and others."""
        known = {"model": self._models, "api_name": list(CALLS), "version": ["1", "2"]}

        def value(match: re.Match[str]) -> str:
            return self._random.choice([*known.get(match[1], ()), self._word(), "..%2f..%2fetc%2fpasswd", "%00"])

        return re.sub(r"{(\w+)(?::\w+)?}", value, template)

    def _word(self) -> str:
        return f"{self._random.getrandbits(48):x}"

    # Connections.

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    def _request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """Write a request; names of headers have `_` for `-`, and one without a value is left out."""
        sent = {"Host": "localhost", "Content_Length": str(len(body)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items() if value)
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def _send(self, data: bytes, *, method: str = "GET", responses: int = 1, stay: float = 0) -> None:
        """Send data, read responses for a moment, and leave."""
        reader, writer = await self._open()
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE + stay):
                for _ in range(responses):
                    await self._read(reader, method, data)
                await asyncio.sleep(stay)
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, method: str, request: bytes = b"") -> None:
        """Read a response, and note one that is an error of the server, or has not the form of its errors."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split()[1])
        self.statuses[status] += 1
        if status < 200:  # 100: the response is still to come
            await self._read(reader, method, request)
            return
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = b""
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif method != "HEAD":
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        if status >= 400 and method != "HEAD":
            with suppress(ValueError):
                if status != 500 and isinstance(json.loads(body).get("error"), str):
                    return
            self.wrong.append(f"{request[:500]!r} -> {head}{body[:300]!r}")

    # What is sent. Each takes a route's method and path.

    async def send_nothing_special(self, method: str, path: str) -> None:
        await self._send(self._request(method, f"{path}?{self._word()}={self._word()}"), method=method)

    async def send_another_method(self, _: str, path: str) -> None:
        method = self._random.choice(METHODS)
        await self._send(self._request(method, path), method=method)

    async def send_to_nowhere(self, method: str, path: str) -> None:
        await self._send(self._request(method, f"{path.rstrip('/')}/{self._word()}"), method=method)

    async def send_half_a_head(self, method: str, path: str) -> None:
        data = self._request(method, path)[:-2]
        await self._send(data[: self._random.randrange(len(data))])

    async def send_and_reset(self, method: str, path: str) -> None:
        _, writer = await self._open()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(self._request(method, path, b"{}", Content_Type="application/json"))
        await asyncio.sleep(self._random.choice([0, 0.001, 0.02]))
        writer.transport.abort()

    async def send_less_than_announced(self, _: str, path: str) -> None:
        size = self._random.choice([9, 70_000, MAX_BODY])
        kind = self._random.choice([FORM, "application/json"])
        sent = bytes(self._random.choice([0, 5, size - 1]))
        await self._send(self._request("POST", path, Content_Length=str(size), Content_Type=kind) + sent)

    async def send_slowly(self, _: str, path: str) -> None:
        reader, writer = await self._open()
        try:
            writer.write(self._request("POST", path, Content_Length="100"))
            reading = asyncio.create_task(self._read(reader, "POST"))
            bytes_left = self._random.choice([0, 5, 50])
            while bytes_left and not reading.done():
                bytes_left -= 1
                writer.write(b" ")
                await asyncio.wait([reading], timeout=0.2)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        finally:
            writer.close()

    async def send_too_much(self, _: str, path: str) -> None:
        if self._random.random() < 0.5:
            await self._send(self._request("POST", path, bytes(MAX_BODY + 100_000), Content_Type=FORM))
            return
        chunks = b"10000\r\n%b\r\n" % bytes(2**16) * 20
        head = self._request("POST", path, Content_Length="", Transfer_Encoding="chunked")
        await self._send(head + chunks + b"0\r\n\r\n")

    async def send_a_gzip_bomb(self, _: str, path: str) -> None:
        bomb = gzip.compress(bytes(4 * 2**20))
        body = self._random.choice([bomb, bomb[:1000], bomb * 3, b"\x1f\x8b", gzip.compress(b"") * 20_000])
        kind = self._random.choice(["application/json", FORM])
        await self._send(self._request("POST", path, body, Content_Encoding="gzip", Content_Type=kind))

    async def send_a_broken_form(self, _: str, path: str) -> None:
        part = b'name="files"; filename="a.png"\r\n\r\n' + bytes(self._random.choice([10, 100_000])) + b"\r\n"
        body = self._random.choice(
            [
                form(part, end=b""),  # without its end
                form(part)[:-9],
                form(*[part] * 20),
                form(*[b'name="f%d"\r\n\r\nx\r\n' % number for number in range(2000)]),
                form(b'name="files"\r\n\r\ntext\r\n'),
                form(b'name="files"; filename="' + b"a" * 70_000 + b'"\r\n\r\nx\r\n'),
                form(b'name="other"; filename="b"\r\n\r\n' + bytes(100_000) + b"\r\n"),
                form(b"name=files; filename*=utf-8''%00..%2f\r\nX: y\r\nX: " + b"z" * 5000 + b"\r\n\r\nx\r\n"),
                b"--x\r\n\r\n\r\n--x--\r\n",
                b"--x--",
                b"",
            ]
        )
        kind = self._random.choice([FORM, FORM, f"{FORM}; charset=undefined", "multipart/form-data", "multipart/x"])
        await self._send(self._request("POST", path, body, Content_Type=kind))

    async def send_an_image(self, _: str, path: str) -> None:
        image = self._random.choice(self._images)
        body = form(b'name="file"; filename="a"\r\n\r\n' + image + b"\r\n")
        body, kind = self._random.choice([(body, FORM), (image, "image/png"), (image, "")])
        await self._send(self._request("POST", path, body, Content_Type=kind))

    async def send_json(self, _: str, path: str) -> None:
        """A call of the app or of the API, with values that do not belong there."""
        value: Any = self._random.choice(
            [None, 0, -1, 1e300, "x" * 1000, [[]] * 500, {"path": "/etc/passwd"}, {"": {}}]
        )
        tensor = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072}
        call = {"data": [value, ""], "fn_index": self._random.randrange(40), "session_hash": self._word()}
        message = self._random.choice(
            [
                value,
                {**call, self._random.choice(list(call)): value},
                {**call, "event_id": value, "trigger_id": value, "simple_format": True},
                {"inputs": [{**tensor, self._random.choice(list(tensor)): value}], "outputs": value},
                {"inputs": [{**tensor, "datatype": "BYTES", "shape": [1], "data": ["!"]}]},
                {"inputs": [{**tensor, "data": None, "parameters": {"binary_data_size": value}}]},
                {"ready": value, "parameters": value, "unload_dependents": value},
            ]
        )
        body = json.dumps(message).encode()
        body = self._random.choice([body, body[:-1], b"[" * 5000, b'{"a":' * 5000])
        length = self._random.choice(["", "", "0", "-1", "99999999"])
        await self._send(
            self._request("POST", path, body, Content_Type="application/json", Inference_Header_Content_Length=length)
        )

    async def send_from_another_origin(self, method: str, path: str) -> None:
        origin: dict[str, Any] = {
            "Origin": "https://evil.example",
            "Sec_Fetch_Site": self._random.choice(["cross-site", ""]),
        }
        asked: dict[str, Any] = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "x-any"}
        method, headers = self._random.choice([(method, origin), ("OPTIONS", origin | asked)])
        await self._send(self._request(method, path, **headers), method=method)

    async def send_a_pipeline(self, method: str, path: str) -> None:
        count = self._random.choice([1, 5, 30])
        await self._send(self._request(method, path) * 30, method=method, responses=count)

    async def send_and_never_read(self, method: str, path: str) -> None:
        _, writer = await self._open()
        writer.write(self._request(method, path) * 50)
        await asyncio.sleep(self._random.random())
        writer.transport.abort()

    async def send_and_stay(self, method: str, path: str) -> None:
        await self._send(self._request(method, path), method=method, stay=self._random.random())

    async def send_garbage(self, method: str, path: str) -> None:
        noise = self._random.randbytes(self._random.choice([10, 1000, 70_000]))
        head = self._request(method, path)
        await self._send(
            self._random.choice([noise, head[:20] + noise, head + noise, b"\r\n" * 40_000, b"\x16\x03\x01"])
        )

    async def send_odd_heads(self, method: str, path: str) -> None:
        headers: dict[str, Any] = self._random.choice(
            [
                {"X": "y" * 70_000},
                {"Content_Length": "-1"},
                {"Content_Length": "1, 1"},
                {"Transfer_Encoding": "gzip, chunked"},
                {"Transfer_Encoding": "chunked", "Content_Length": "5"},
                {"Host": ""},
                {"Host": "a b"},
                {"Host": "evil.example"},
                {"Expect": "100-continue"},
                {"Range": "bytes=0-0,5-9,99999999-"},
                {
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec_WebSocket_Key": "x",
                    "Sec_WebSocket_Version": "13",
                },
                {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABkAAQ"},
                {"Content_Encoding": "br"},
                {"Accept_Encoding": "gzip"},
                {"Authorization": "Basic !"},
                {"X_Forwarded_Prefix": f"/{self._word()}", "X_Forwarded_Host": "a b", "X_Forwarded_For": "x" * 500},
                {"X_Request_Id": "x" * 500},
                {"Cookie": "access-token=x; " * 500},
            ]
        )
        await self._send(self._request(method, path, **headers), method=method)

    async def send_broken_chunks(self, _: str, path: str) -> None:
        head = self._request("POST", path, Content_Length="", Transfer_Encoding="chunked")
        chunks = self._random.choice([b"zz\r\n", b"5\r\nabc", b"1\r\nab\r\n", b"0\r\nX: y\r\n", b"-1\r\n", b"f" * 20])
        await self._send(head + chunks)

    # What only the app has; the route that is given does not matter.

    async def send_calls_and_forget_them(self, _: str, __: str) -> None:
        """Each by a session of its own; some clients open the stream with the results, and leave it."""
        for _number in range(5):
            session = self._word()
            body = json.dumps({"data": [], "fn_index": self._random.randrange(40), "session_hash": session}).encode()
            for path in ("/gradio_api/queue/join", "/gradio_api/call/models", "/gradio_api/run/models"):
                await self._send(self._request("POST", path, body, Content_Type="application/json"))
            if self._random.random() < 0.5:
                stream = f"/gradio_api/{self._random.choice(['queue/data?session_hash=', 'heartbeat/'])}{session}"
                await self._send(self._request("GET", stream))

    async def send_uploads_and_forget_them(self, _: str, __: str) -> None:
        image = self._random.choice(self._images)
        body = form(b'name="files"; filename="%s.png"\r\n\r\n' % self._word().encode() + image + b"\r\n")
        path = f"/gradio_api/upload?upload_id={self._word()}"
        cut = self._random.choice([len(body), len(body), self._random.randrange(len(body))])
        await self._send(self._request("POST", path, body[:cut], Content_Length=str(len(body)), Content_Type=FORM))
        await self._send(self._request("GET", f"/gradio_api/upload_progress?upload_id={self._word()}"))
