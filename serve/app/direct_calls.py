"""The client functions over plain HTTP, past Gradio: `/gradio_api/run/NAME` and `/gradio_api/call/NAME`, as its own.

On the way through Gradio a call takes four times as long as a request to /classify, nearly all of it in layers of
routing and in values that Gradio prepares for its page (`python benchmarks/serving.py`). gradio_client, which starts
new connections for each call, and the page itself use Gradio's own routes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import orjson
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.app.hardening.event_queue import UNREAD_RESULTS, WAITING
from serve.app.hardening.guard import QUEUED_BYTES
from serve.errors import ApiError, BadRequest, Overloaded
from serve.http.bodies import Bodies
from serve.http.responses import EXCEPTION_HANDLERS
from serve.http.routing import route_path

log = logging.getLogger("serve")

# How many calls may run, and how many results are kept for clients that have not read them yet: as in Gradio's queue.
RUNNING = WAITING
UNREAD = UNREAD_RESULTS

Function = Callable[..., Awaitable[Any]]


class DirectCalls:
    """ASGI application for the calls of some functions, and for all else the one that it stands before.

    Args:
        app: The application for all other requests.
        functions: What may be called, by name; arguments and results are JSON.
        bodies: The reader of requests' bodies.
    """

    def __init__(self, app: ASGIApp, functions: Mapping[str, Function], bodies: Bodies) -> None:
        self._app = app
        self._names = frozenset(functions)
        self._bodies = bodies
        self._results: dict[str, asyncio.Task[tuple[str, Any]]] = {}
        routes = [Route("/gradio_api/call/{name}/{event}", self._result)]
        for name, function in functions.items():
            routes.append(Route(f"/gradio_api/run/{name}", partial(self._run, function), methods=["POST"]))
            routes.append(Route(f"/gradio_api/call/{name}", partial(self._begin, function), methods=["POST"]))
        self._calls = ExceptionMiddleware(Router(routes, redirect_slashes=False), EXCEPTION_HANDLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        await (self._calls if self._mine(scope) else self._app)(scope, receive, send)

    def _mine(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        match route_path(scope).split("/"):
            case ["", "gradio_api", "run" | "call", name]:
                return name in self._names
            case ["", "gradio_api", "call", name, event]:
                return name in self._names and bool(event)
        return False

    async def _run(self, function: Function, request: Request) -> Response:
        arguments = await self._arguments(function, request)
        began = time.monotonic()
        result = await function(*arguments)
        seconds = time.monotonic() - began
        return _json({"data": [result], "is_generating": False, "duration": seconds, "average_duration": seconds})

    async def _begin(self, function: Function, request: Request) -> Response:
        arguments = await self._arguments(function, request)
        if len(self._results) >= RUNNING:
            self._make_room()
        event = secrets.token_hex(16)
        self._results[event] = asyncio.create_task(_settled(function, arguments))
        return _json({"event_id": event})

    def _make_room(self) -> None:
        done = [event for event, task in self._results.items() if task.done()]
        if len(self._results) - len(done) >= RUNNING:
            raise Overloaded(f"the queue is full: at most {RUNNING} calls may run")
        if len(self._results) >= UNREAD:
            del self._results[done[0]]  # the oldest

    async def _result(self, request: Request) -> Response:
        event = request.path_params["event"]
        task = self._results.pop(event, None)
        if task is None:
            raise ApiError(404, f"no call {event!r:.99} waits for its result to be read")
        kind, data = await task
        content = b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))
        return Response(content, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _arguments(self, function: Function, request: Request) -> list[Any]:
        """Read the arguments of `function` in a request's body. Raises ApiError."""
        async with self._bodies.read(request, QUEUED_BYTES) as body:
            try:
                given = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise ApiError(422, f"the body is not JSON: {error}") from None
        data = given.get("data") if isinstance(given, dict) else None
        if not isinstance(data, list):
            raise ApiError(422, 'the body must be {"data": [...]}, with the arguments in their order')
        try:
            signature(function).bind(*data)
        except TypeError as error:
            raise BadRequest(f"{function.__name__} is not called like this: {error}") from None
        return data


async def _settled(function: Function, arguments: list[Any]) -> tuple[str, Any]:
    """Call a function, and return the kind of the event with its result or error, and the event's data."""
    try:
        return "complete", [await function(*arguments)]
    except ApiError as error:
        return "error", {"error": error.message}
    except Exception:
        log.exception("a call of %s failed", function.__name__)
        return "error", {"error": "internal error; the log has it"}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
