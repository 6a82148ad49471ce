"""What stands between strangers and Gradio: open routes, limits on bytes, and errors in the form of this server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.app.gradio_internals import invalid_call
from serve.app.upload_quota import UploadQuota
from serve.http.bodies import Gone
from serve.http.forms import without_charset
from serve.http.gate import RECORD
from serve.http.responses import error_response
from serve.http.routing import route_path
from serve.settings import Settings

log = logging.getLogger("serve")

API = "/gradio_api/"
# The routes that the page and gradio_client need. Gradio has more: a proxy, recordings, fetching from other servers.
OPEN_ROUTES = frozenset((
    "api", "app_id", "call", "cancel", "file", "heartbeat", "info", "login_check", "openapi.json", "queue", "reset",
    "run", "startup-events", "theme.css", "upload", "upload_progress",
))  # fmt: skip
# Routes whose bodies are calls: an error in one of them is the client's mistake.
CALLS = frozenset(("api", "call", "queue", "run"))
# The most bytes of a call, which is a drawing and some words. Gradio holds it whole, and parses it as JSON.
CALL_BYTES = 2 * 2**20
# The most bytes that a form adds to its files.
FORM_BYTES = 64 * 2**10


class Guard:
    """ASGI middleware around the Gradio application.

    `streams` holds the tasks of responses without end, such as the one that tells the page that the server is alive. A
    shutdown does not wait for them but cancels them, and they end their responses in good order.
    """

    def __init__(self, app: ASGIApp, settings: Settings, quota: UploadQuota, streams: set[asyncio.Task[Any]]) -> None:
        self._app = app
        self._upload_bytes = settings.max_body + FORM_BYTES
        self._quota = quota
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio handle a request, unless it is one to refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = _route(route_path(scope))
        limit = self._upload_bytes if route == "upload" else CALL_BYTES
        refusal = _refusal(scope, route, limit)
        if refusal is not None:
            await error_response(*refusal)(scope, receive, send)
            return
        if route == "upload":
            scope = {**scope, "headers": without_charset(scope["headers"])}
        response = _Response(send, route)
        body = _Body(receive, limit, response)
        await self._forward(scope, body, response)
        if response.error is not None:
            await error_response(*response.error)(scope, receive, send)
        if scope["method"] == "POST" and route and self._quota.due(body.received):
            await asyncio.to_thread(self._quota.prune)

    async def _forward(self, scope: Scope, body: _Body, response: _Response) -> None:
        """Let Gradio handle the request. If it fails, `response.error` says what to send instead."""
        task = asyncio.current_task()
        assert task is not None

        async def send(message: Message) -> None:
            await response.send(message)
            if message["type"] == "http.response.start" and _content_type(message) == "text/event-stream":
                self._streams.add(task)

        try:
            await self._app(scope, body.receive, send)
        except asyncio.CancelledError:
            if task not in self._streams or not response.begun:
                raise
            task.uncancel()
            await response.end()
        except ClientDisconnect:
            if response.error is None:
                raise Gone from None
        except Exception as error:
            await _fail(response, error, scope[RECORD].id)
        finally:
            self._streams.discard(task)


class _Body:
    """A request's body. Beyond `limit` bytes the client counts as gone, and the response says why."""

    def __init__(self, receive: Receive, limit: int, response: _Response) -> None:
        self.received = 0
        self._receive = receive
        self._limit = limit
        self._response = response

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        if self.received <= self._limit:
            return message
        if not self._response.begun:  # a response that has begun did not need the rest of the body
            self._response.error = _too_large(self._limit)
        return {"type": "http.disconnect"}


class _Response:
    """Sends a response on; one that reports an error becomes `{"error": ...}` first.

    Attributes:
        error: status and text to send instead of Gradio's response; from then on that is dropped.
        begun: whether a part of the response has been sent.
    """

    def __init__(self, send: Send, route: str) -> None:
        self.route = route
        self.begun = False
        self.error: tuple[int, str] | None = None
        self._send = send
        self._bad: Message | None = None
        self._body = b""
        self._done = False

    async def send(self, message: Message) -> None:
        if self.error is not None:
            return
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._bad = message
            return
        if self._bad is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self._bad)
            return
        self.begun = True
        self._done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def _send_error(self, start: Message) -> None:
        status = start["status"]
        try:
            content = orjson.loads(self._body)
        except orjson.JSONDecodeError:
            content = self._body.decode(errors="replace")
        content = content if isinstance(content, dict) else {"error": str(content)}
        # A text comes from one of the app's own calls, and the client is at fault. Null is an unexpected error.
        if status == 500 and self.route in CALLS and content.get("error"):
            status = 400
        error = content.get("error") or content.get("detail") or "internal error; the log has it"
        message = {"error": error if isinstance(error, str) else orjson.dumps(error).decode()}
        if self.route and "detail" in content:
            message["detail"] = content["detail"]  # the page's script reads it
        self.begun = self._done = True
        body = orjson.dumps(message)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})

    async def end(self) -> None:
        if not self._done:
            await self._send({"type": "http.response.body", "body": b""})


def _route(path: str) -> str:
    """Return the name of the Gradio route at `path`; empty for the page and its files."""
    # "file=..." is one of the routes.
    return path.removeprefix(API).split("/")[0].split("=")[0] if path.startswith(API) else ""


def _refusal(scope: Scope, route: str, limit: int) -> tuple[int, str] | None:
    """Return status and text for a request that Gradio must not see; None for any other."""
    path = route_path(scope)
    if route and route not in OPEN_ROUTES:
        return 404, f"nothing is at {path!r:.200}"
    if route == "file" and "://" in path:  # Gradio would fetch it and pass it on (its pull request 13596)
        return 403, "this server fetches nothing from other servers"
    if int(Headers(scope=scope).get("content-length", 0)) > limit:
        return _too_large(limit)
    return None


def _too_large(limit: int) -> tuple[int, str]:
    return 413, f"the body is too large: at most {limit:,} bytes"


async def _fail(response: _Response, error: Exception, request: str) -> None:
    """End the response after an exception of Gradio's; call it where the exception is handled."""
    if response.begun:
        if not isinstance(error.__cause__, HTTPException):
            raise error
        await response.end()  # an event has already said what is wrong
    elif response.error is None and response.route in CALLS:
        response.error = 400, invalid_call(error)
    elif response.error is None:
        log.exception("request %s failed", request)
        response.error = 500, f"internal error; the log has it under request id {request}"


def _content_type(start: Message) -> str:
    return Headers(raw=list(start.get("headers", ()))).get("content-type", "").split(";")[0]
