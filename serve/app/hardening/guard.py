"""What stands between strangers and Gradio: open routes, bounded bodies, and errors in the form of this server."""

from __future__ import annotations

import asyncio
import errno
import logging
from http import HTTPStatus

import orjson
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.app.hardening.gradio_internals import invalid_call, unfinished_uploads
from serve.app.hardening.refusals import STATUSES
from serve.app.hardening.streams import Streams
from serve.app.hardening.upload_quota import UploadQuota
from serve.errors import ApiError
from serve.http.bodies import Bodies, Gone
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
# Routes whose responses to GET do not end by themselves.
STREAMING = frozenset(("call", "heartbeat", "queue", "upload_progress"))
# The most bytes of a call, which is a drawing and some words. Gradio holds it whole, and parses it as JSON.
CALL_BYTES = 2 * 2**20
# The most bytes of a call that waits in a queue: the names of a file and of a model. The page's calls do not wait.
QUEUED_BYTES = 16 * 2**10
QUEUED = frozenset(("call", "cancel", "queue", "reset"))
# Routes whose bodies are JSON for a call: an error in one of them is the client's mistake.
CALLS = QUEUED | {"api", "run"}
# The most bytes that a form adds to its files.
FORM_BYTES = 64 * 2**10


class Guard:
    """ASGI middleware around the Gradio application.

    A body is read here, within the time and the room that all bodies of the server share, before Gradio sees it.
    A shutdown does not wait for the responses of `streams` but cancels them, and they end in good order.
    """

    def __init__(self, app: ASGIApp, settings: Settings, bodies: Bodies, quota: UploadQuota, streams: Streams) -> None:
        self._app = app
        self._upload_bytes = settings.max_body + FORM_BYTES
        self._bodies = bodies
        self._quota = quota
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio handle a request, unless it is one to refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        route = _route(path)
        response = _Response(send, route)
        try:
            _check(path, route)
            await self._handle(scope, receive, response)
        except ApiError as error:
            response.error = error
        if response.error is not None:
            status, message, headers = response.error.status, response.error.message, response.error.headers
            await error_response(status, message, headers)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, response: _Response) -> None:
        path, route = route_path(scope), response.route
        if scope["method"] == "POST":
            async with self._bodies.read(Request(scope, receive), self._limit(route)) as body:
                if route == "upload":
                    scope = {**scope, "headers": without_charset(scope["headers"])}
                with unfinished_uploads():
                    await self._forward(scope, _replay(body, receive), response)
                received = len(body)
            if route and self._quota.due(received):
                await self._quota.prune()
        elif scope["method"] == "GET" and route in STREAMING:
            # The stream that each page has open: /gradio_api/heartbeat/SESSION.
            session = path.rpartition("/")[2] if route == "heartbeat" else ""
            with self._streams.hold(session):
                await self._forward(scope, receive, response)
        else:
            await self._forward(scope, receive, response)

    def _limit(self, route: str) -> int:
        return self._upload_bytes if route == "upload" else QUEUED_BYTES if route in QUEUED else CALL_BYTES

    async def _forward(self, scope: Scope, receive: Receive, response: _Response) -> None:
        """Let Gradio handle the request. If it fails, `response.error` says what to send instead."""
        task = asyncio.current_task()
        assert task is not None
        token = STATUSES.set(response.statuses)
        try:
            await self._app(scope, receive, response.send)
        except asyncio.CancelledError:
            if task not in self._streams or not response.begun:
                raise
            task.uncancel()
            await response.end()
        except ClientDisconnect:
            raise Gone from None
        except Exception as error:
            await _fail(response, error, scope[RECORD].id)
        finally:
            STATUSES.reset(token)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Build a `receive` for a request whose body has been read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


class _Response:
    """Sends a response on; one that reports an error becomes `{"error": ...}` first.

    Attributes:
        error: what to send instead of Gradio's response.
        begun: whether a part of the response has been sent.
        statuses: the statuses of the calls that the app's functions have refused.
    """

    def __init__(self, send: Send, route: str) -> None:
        self.route = route
        self.begun = False
        self.error: ApiError | None = None
        self.statuses: list[int] = []
        self._send = send
        self._bad: Message | None = None
        self._body = b""
        self._done = False

    async def send(self, message: Message) -> None:
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
            # 503 and 504 tell the state of the server; all else is wrong with the call.
            status = next((one for one in self.statuses if one > 500), 400)
        unsaid = "internal error; the log has it" if status >= 500 else HTTPStatus(status).phrase
        error = content.get("error") or content.get("detail") or unsaid
        message = {"error": error if isinstance(error, str) else orjson.dumps(error).decode()}
        if self.route and "detail" in content:
            message["detail"] = content["detail"]  # the page's script reads it
        self.begun = self._done = True
        body = orjson.dumps(message)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        if status == 503:
            headers["retry-after"] = "1"
        await self._send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})

    async def end(self) -> None:
        if not self._done:
            await self._send({"type": "http.response.body", "body": b""})


def _route(path: str) -> str:
    """Return the name of the Gradio route at `path`; empty for the page and its files."""
    # "file=..." is one of the routes.
    return path.removeprefix(API).split("/")[0].split("=")[0] if path.startswith(API) else ""


def _check(path: str, route: str) -> None:
    """Raise ApiError for a path that Gradio must not see."""
    if route and route not in OPEN_ROUTES:
        raise ApiError(404, f"nothing is at {path!r:.200}")
    if route == "file" and "://" in path:  # Gradio would fetch it and pass it on (its pull request 13596)
        raise ApiError(403, "this server fetches nothing from other servers")


async def _fail(response: _Response, error: Exception, request: str) -> None:
    """End the response after an exception of Gradio's; call it where the exception is handled."""
    if response.begun:
        if not isinstance(error.__cause__, HTTPException):
            raise error
        await response.end()  # an event has already said what is wrong
    elif response.route in CALLS or (response.route == "upload" and isinstance(error, TypeError)):  # a text as a file
        response.error = ApiError(400, invalid_call(error))
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        response.error = ApiError(404, "nothing is at this path: one of its names is too long")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        log.error("request %s: no room for an upload: %s", request, error.strerror)
        response.error = ApiError(507, "this server has no room for uploads at present", retry_after=60)
    else:
        log.exception("request %s failed", request)
        response.error = ApiError(500, f"internal error; the log has it under request id {request}")
