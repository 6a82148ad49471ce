"""What stands between strangers and Gradio: the routes that are open, the bytes that may come, and errors in this
server's own form.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import orjson
from gradio import processing_utils
from gradio.exceptions import InvalidPathError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.app.parts import NOT_UPLOADED, refusal
from serve.app.uploads import Uploads
from serve.http.bodies import Gone
from serve.http.forms import without_charset
from serve.http.gate import RECORD
from serve.http.responses import error_response
from serve.http.routing import route_path
from serve.settings import Settings

log = logging.getLogger("serve")

API = "/gradio_api/"
# What the page and gradio_client ask for. Gradio has more: a proxy, recordings, what fetches files from others.
OPEN_ROUTES = frozenset((
    "api", "app_id", "call", "cancel", "file", "heartbeat", "info", "login_check", "openapi.json", "queue", "reset",
    "run", "startup-events", "theme.css", "upload", "upload_progress",
))  # fmt: skip
# Routes whose bodies say what to do: where that makes no sense, the caller is at fault.
CALLS = frozenset(("api", "call", "queue", "run"))
# The most bytes of a call, which is a drawing and some words. Gradio holds it whole, and reads it as JSON.
CALL_BYTES = 2 * 2**20
# The most bytes that a form adds to its files.
FORM_BYTES = 64 * 2**10


class Guard:
    """ASGI middleware around the Gradio application.

    `streams` holds the tasks whose answers have no end, such as the one that tells the page that the server is alive.
    A shutdown need not wait for these: it cancels them, and they end their answers in good order.
    """

    def __init__(self, app: ASGIApp, settings: Settings, uploads: Uploads, streams: set[asyncio.Task[Any]]) -> None:
        self._app = app
        self._upload_bytes = settings.max_body + FORM_BYTES
        self._uploads = uploads
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def say(status: int, text: str) -> None:
            await error_response(status, text)(scope, receive, send)

        path = route_path(scope)
        # "file=..." is one of the routes.
        part = path.removeprefix(API).split("/")[0].split("=")[0] if path.startswith(API) else ""
        if part and part not in OPEN_ROUTES:
            await say(404, f"nothing is at {path!r:.200}")
            return
        if part == "file" and "://" in path:
            await say(403, "this server fetches nothing from others")
            return
        if part == "upload":
            scope = {**scope, "headers": without_charset(scope["headers"])}
        answer = _Answer(send, part)
        limit = self._upload_bytes if part == "upload" else CALL_BYTES
        length = int(Headers(scope=scope).get("content-length", 0))
        if length > limit:
            await say(413, f"the body is too large: at most {limit:,} bytes")
            return
        came = 0

        async def bounded() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came <= limit:
                return message
            if not answer.begun:  # else it did not need the rest of the body
                answer.instead = 413, f"the body is too large: at most {limit:,} bytes"
            return {"type": "http.disconnect"}

        task = asyncio.current_task()
        assert task is not None
        try:
            await self._app(scope, bounded, lambda message: self._pass(message, answer, task))
        except asyncio.CancelledError:
            if task not in self._streams or not answer.begun:
                raise
            task.uncancel()
            await answer.end()
        except ClientDisconnect:
            if answer.instead is None:
                raise Gone from None
        except Exception as error:
            if answer.begun:
                if not isinstance(error.__cause__, HTTPException):
                    raise
                await answer.end()  # an event has already said what is wrong
            elif answer.instead is None and part in CALLS:
                answer.instead = 400, _senseless(error)
            elif answer.instead is None:
                log.exception("request %s failed", scope[RECORD].id)
                answer.instead = 500, f"internal error; the log has it under request id {scope[RECORD].id}"
        finally:
            self._streams.discard(task)
        if answer.instead is not None:
            await say(*answer.instead)
        if scope["method"] == "POST" and part and self._uploads.due(came):
            await asyncio.to_thread(self._uploads.prune)

    async def _pass(self, message: Message, answer: _Answer, task: asyncio.Task[Any]) -> None:
        await answer(message)
        if message["type"] == "http.response.start" and _kind(message) == "text/event-stream":
            self._streams.add(task)


class _Answer:
    """Sends an answer on; one that reports an error becomes `{"error": ...}` first."""

    def __init__(self, send: Send, part: str) -> None:
        self.begun = False
        self.instead: tuple[int, str] | None = None
        self._send = send
        self._part = part
        self._bad: Message | None = None
        self._body = b""
        self._done = False

    async def __call__(self, message: Message) -> None:
        if self.instead is not None:
            return
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._bad = message
            return
        if self._bad is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._say()
            return
        self.begun = True
        self._done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def _say(self) -> None:
        assert self._bad is not None
        status = self._bad["status"]
        try:
            said = orjson.loads(self._body)
        except orjson.JSONDecodeError:
            said = self._body.decode(errors="replace")
        said = said if isinstance(said, dict) else {"error": str(said)}
        # A text comes from one of our own calls, and the caller is at fault. Null is an unexpected error.
        if status == 500 and self._part in CALLS and said.get("error"):
            status = 400
        error = said.get("error") or said.get("detail") or "internal error; the log has it"
        answer = {"error": error if isinstance(error, str) else orjson.dumps(error).decode()}
        if self._part and "detail" in said:
            answer["detail"] = said["detail"]  # the page's own script reads it
        self.begun = self._done = True
        body = orjson.dumps(answer)
        headers = MutableHeaders(raw=list(self._bad["headers"]))
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})

    async def end(self) -> None:
        if not self._done:
            await self._send({"type": "http.response.body", "body": b""})


def _kind(start: Message) -> str:
    return Headers(raw=list(start.get("headers", ()))).get("content-type", "").split(";")[0]


def _senseless(error: Exception) -> str:
    """Phrase what to tell the caller whose data made Gradio fail."""
    return f"the call makes no sense: {type(error).__name__}: {error}"[:300]


def refuse_quietly(page: gr.Blocks) -> None:
    """Blame the caller for data that do not fit a call; Gradio prints a traceback for each."""
    preprocess = page.preprocess_data

    async def checked(*arguments: Any, **options: Any) -> Any:
        try:
            return await preprocess(*arguments, **options)
        except (gr.Error, OSError, MemoryError):  # the last two are no fault of the caller's
            raise
        except Exception as error:
            raise refusal(_senseless(error)) from None

    page.preprocess_data = checked  # type: ignore[method-assign]


_check_allowed = processing_utils._check_allowed


async def _fetch(*arguments: Any, **options: Any) -> NoReturn:
    raise refusal("this server fetches nothing from others; /gradio_api/upload takes the picture itself")


def _checked(path: str | Path, check_in_upload_folder: bool) -> None:
    try:
        _check_allowed(path, check_in_upload_folder)
    except InvalidPathError:
        raise refusal(NOT_UPLOADED) from None


def close_files() -> None:
    """Let callers name nothing but uploads, for whatever part of the page.

    Gradio itself would fetch what has an address, and print a traceback for a file that it does not allow.
    """
    processing_utils.async_ssrf_protected_download = _fetch
    processing_utils._check_allowed = _checked
