"""From a path of the API to its handler, and from whatever the handler raises to an answer."""

from collections.abc import Awaitable, Callable, Sequence

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import ApiError

Handler = Callable[[Request], Awaitable[Response]]


class Dispatch:
    """ASGI middleware that answers for all paths whose first part one of `routes` has; the rest goes on to `app`.

    The routes are FastAPI's, which describes them at /docs; but a request comes here, as FastAPI would take longer to
    reach a handler than the handler takes itself.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes: dict[str, list[Route]] = {}
        for route in routes:
            self._routes.setdefault(route.path.split("/")[1], []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = self._routes.get(f"{scope['path']}/".split("/")[1]) if scope["type"] == "http" else None
        if routes is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await _handler(routes, scope)(Request(scope, receive, send))
        except ApiError as error:
            response = error_response(error.status, error.message, error.headers)
        except HTTPException as error:
            response = error_response(error.status_code, str(error.detail), dict(error.headers or {}))
        await response(scope, receive, send)


def _handler(routes: list[Route], scope: Scope) -> Handler:
    allowed: set[str] = set()
    # The server leaves out the body.
    asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
    for route in routes:
        match, found = route.matches(asked)
        if match is Match.FULL:
            scope.update(found)
            return route.endpoint
        if match is Match.PARTIAL:
            allowed |= route.methods or set()
    if allowed:
        methods = ", ".join(sorted(allowed))
        raise HTTPException(405, f"{scope['method']} is not allowed here; valid is {methods}", {"allow": methods})
    raise HTTPException(404, f"nothing is at {scope['path']!r:.200}; /docs tells what is where")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """`{"error": message}`."""
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")
