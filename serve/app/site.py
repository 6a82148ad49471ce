"""What makes the app a page of its own: its head for browsers and search engines, small files, compression, caching."""

from __future__ import annotations

import gzip
import re
from functools import lru_cache
from html import escape
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.routing import route_path

STATIC = Path(__file__).parent / "static"
TITLE = "Deep Image Zoo: draw a digit, and see how networks read it"
DESCRIPTION = (
    "Draw a digit or choose a picture. VGG16, ResNet18 and GoogLeNet, vanilla and improved, name it while you draw, "
    "vote on it, and show where they look."
)
# Files at the root, where browsers and crawlers look for them.
FILES = {
    "robots.txt": "text/plain",
    "manifest.json": "application/manifest+json",
    "favicon.ico": "image/svg+xml",
    "icon.svg": "image/svg+xml",
    "icon-180.png": "image/png",
    "icon-512.png": "image/png",
    "card.png": "image/png",
}
DAY = "max-age=86400"
# Gradio's own head: its title, pictures and manifest.
GRADIOS = re.compile(r'\s*<(?:meta\s+(?:property="og:|name="twitter:)[^>]*|link rel="manifest"[^>]*)>')
FRAME = "<script>window.gradio_config"
# Gradio names these files after their content.
HASHED = re.compile(r"/assets/.*-[\w-]{8}\.\w+")


def routes() -> list[Route]:
    """Build the routes of the page's small files."""

    def route(name: str, kind: str) -> Route:
        file = STATIC / ("icon.svg" if name == "favicon.ico" else name)

        async def get(_: Request) -> Response:
            return FileResponse(file, media_type=kind, headers={"cache-control": DAY})

        return Route(f"/{name}", get)

    return [route(name, kind) for name, kind in FILES.items()]


class OwnPage:
    """ASGI middleware around Gradio: its page gets this app's head, is compressed, and its files are cached."""

    def __init__(self, app: ASGIApp, shared: bool) -> None:
        """Let caches on the way keep files if they are `shared`, which they are not where a key is needed."""
        self._app = app
        self._forever = f"{'public' if shared else 'private'}, max-age=31536000, immutable"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        if path == "/" and scope["method"] == "GET":
            await self._app(scope, receive, _Page(scope, send).send)
        elif HASHED.fullmatch(path):
            await self._app(scope, receive, self._cached(send))
        else:
            await self._app(scope, receive, send)

    def _cached(self, send: Send) -> Send:
        async def cached(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (200, 206, 304):
                MutableHeaders(raw=message["headers"])["cache-control"] = self._forever
            await send(message)

        return cached


class _Page:
    """Sends the page on once it is whole, changed and compressed."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            if message["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                self._start = {**message, "headers": headers.raw}
                return
        if not self._start or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        request = Request(self._scope)
        address = f"{request.url.scheme}://{request.headers.get('host', '')}{self._scope.get('root_path', '')}/"
        packed = "gzip" in Headers(scope=self._scope).get("accept-encoding", "")
        body = _own(self._body, address, packed)
        headers = MutableHeaders(raw=self._start["headers"])
        headers["content-length"] = str(len(body))
        headers["cache-control"] = "no-cache"
        headers.add_vary_header("Accept-Encoding")
        if packed:
            headers["content-encoding"] = "gzip"
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=8)
def _own(page: bytes, address: str, packed: bool) -> bytes:
    """Put this app's head into Gradio's `page`, and compress it if it is to be `packed`."""
    head, frame, rest = page.decode().partition(FRAME)
    head = GRADIOS.sub("", head) + _head(address)
    body = (head + frame + GRADIOS.sub("", rest)).encode()
    return gzip.compress(body, 6, mtime=0) if packed else body


def _head(address: str) -> str:
    card = escape(f"{address}card.png")
    calls = (STATIC / "calls.js").read_text(encoding="utf-8")
    return f"""<title>{TITLE}</title>
		<meta name="description" content="{DESCRIPTION}" />
		<meta name="theme-color" content="#ffffff" media="(prefers-color-scheme: light)" />
		<meta name="theme-color" content="#0b0f19" media="(prefers-color-scheme: dark)" />
		<meta property="og:title" content="{TITLE}" />
		<meta property="og:type" content="website" />
		<meta property="og:url" content="{escape(address)}" />
		<meta property="og:description" content="{DESCRIPTION}" />
		<meta property="og:image" content="{card}" />
		<meta property="og:image:width" content="1200" />
		<meta property="og:image:height" content="630" />
		<meta name="twitter:card" content="summary_large_image" />
		<link rel="icon" type="image/svg+xml" href="icon.svg" />
		<link rel="apple-touch-icon" href="icon-180.png" />
		<link rel="manifest" href="manifest.json" crossorigin="use-credentials" />
		<script>{calls}</script>
		"""
