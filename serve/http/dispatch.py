"""From the API's paths to their handlers, and from what a handler raises to an answer."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import ApiError

Handler = Callable[[Request], Awaitable[Response]]


class Dispatch:
    """ASGI middleware that answers all paths whose first part is that of one of `routes`; others go on to `app`.

    The routes are FastAPI's, which describes them at /docs. But requests are dispatched here: FastAPI would take longer
    to reach a handler than the handler itself takes.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes: dict[str, list[Route]] = {}
        for route in routes:
            self._routes.setdefault(_first(route.path), []).append(route)
        # The same few paths come again and again. Few are kept, as strangers may send long ones.
        self._find = lru_cache(maxsize=64)(self._search)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _first(route_path(scope)) not in self._routes:
            await self._app(scope, receive, send)
            return
        try:
            handler, found = self._find(scope["method"], scope["path"], scope.get("root_path", ""))
            scope.update(found)
            response = await handler(Request(scope, receive, send))
        except ApiError as error:
            response = error_response(error.status, error.message, error.headers)
        except HTTPException as error:
            response = http_error_response(error)
        await response(scope, receive, send)

    def _search(self, method: str, path: str, root_path: str) -> tuple[Handler, dict[str, Any]]:
        """Find the handler, and what its request's scope should say of the path."""
        allowed: set[str] = set()
        # HEAD is handled as GET: the server leaves out the body.
        asked = {"type": "http", "method": "GET" if method == "HEAD" else method, "path": path, "root_path": root_path}
        for route in self._routes[_first(route_path(asked))]:
            match, found = route.matches(asked)
            if match is Match.FULL:
                return route.endpoint, dict(found)
            if match is Match.PARTIAL:
                allowed |= route.methods or set()
        if allowed:
            methods = ", ".join(sorted(allowed))
            raise HTTPException(405, f"{method} is not allowed here; valid is {methods}", {"allow": methods})
        raise HTTPException(404, f"nothing is at {path!r:.200}; /docs lists the routes")


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return a request's path as the routes have it: without the prefix that a proxy adds (`root_path`)."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


def _first(path: str) -> str:
    """Return the first part of a path; empty for one without, such as the `*` of OPTIONS."""
    return f"{path}/".split("/", 2)[1]


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Answer with `{"error": message}`."""
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")


def http_error_response(error: HTTPException) -> Response:
    """Answer an HTTPException of Starlette's in the same form."""
    return error_response(error.status_code, str(error.detail), dict(error.headers or {}))
