"""The way from a path to its handler: Starlette's routing."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.responses import EXCEPTION_HANDLERS

Handler = Callable[[Request], Awaitable[Response]]


def route_first(routes: Sequence[Route], app: ASGIApp) -> ASGIApp:
    """Build an ASGI application that handles the paths of `routes`, and everything below their first parts.

    Args:
        routes: The API's routes, such as /v2 and /classify/{model}.
        app: The application for all other paths.
    """
    plain = [Route(route.path, route.endpoint, methods=route.methods) for route in routes]
    router = Router(plain, redirect_slashes=False, default=_not_found)
    api = ExceptionMiddleware(router, EXCEPTION_HANDLERS)
    firsts = {_first(route.path) for route in routes}

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and _first(route_path(scope)) in firsts
        await (api if ours else app)(scope, receive, send)

    return choose


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return a request's path as the routes have it: without the prefix that a proxy adds (`root_path`)."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


def _first(path: str) -> str:
    """Return the first part of a path; empty for one without, such as the `*` of OPTIONS."""
    return f"{path}/".split("/", 2)[1]


async def _not_found(scope: Scope, *_: Any) -> None:
    raise HTTPException(404, f"nothing is at {scope['path']!r:.200}; /docs lists the routes")
