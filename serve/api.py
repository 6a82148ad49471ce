"""The ASGI application: every route in one place, one engine behind them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.engine.batching import Engine
from serve.http.bodies import Bodies
from serve.http.dispatch import Dispatch, http_error_response
from serve.http.gate import KEYLESS, Gate
from serve.images.decoder import Decoder
from serve.routes.classify import Classify
from serve.routes.openapi import with_key
from serve.routes.table import api_routes
from serve.routes.v2 import V2
from serve.settings import Settings, from_environment

TITLE = "Deep Image Zoo"


class Application(FastAPI):
    """FastAPI's application behind the gate and the dispatch, which are middleware in all but place.

    FastAPI would put layers of its own in front of them. What these do for the API's routes is done already, and they
    take a tenth of the Python time that a small picture costs.
    """

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await (self.behind if scope["type"] == "lifespan" else self.front)(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what FastAPI itself is responsible for: the app, the documentation."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application for any ASGI server; `settings` default to the environment's (ZOO_SERVE_MODELS, ...)."""
    settings = settings or Settings(**from_environment())
    engine = Engine(settings)
    bodies = Bodies(settings)
    decoder = Decoder(settings, engine.metrics)
    routes = api_routes(Classify(engine, bodies, decoder), V2(engine, bodies, _version()), engine.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        decoder.close()

    app = Application(
        title=TITLE,
        version=_version(),
        description='Image classification. Every answer other than a success is `{"error": "..."}`.',
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
        docs_url=None,
        redoc_url=None,
    )
    # FastAPI's own /docs fetches its script from another server.
    offline = FastAPIOffline(static_url="/docs/files", title=TITLE, redoc_url=None)
    for route in offline.routes:
        if isinstance(route, APIRoute) and route.methods:
            route.methods.add("HEAD")  # as for Starlette's own routes
    app.router.routes.extend(route for route in offline.routes if getattr(route, "path", "") != offline.openapi_url)
    app.front = Gate(Dispatch(app.behind, routes), engine)
    app.state.engine = engine
    app.state.streams = set[asyncio.Task[Any]]()  # of answers without an end
    app.router.routes.extend(routes)
    if settings.api_key:
        describe = app.openapi
        app.openapi = lambda: with_key(describe(), KEYLESS)  # type: ignore[method-assign]
    if settings.app:
        from serve.app.page import mount

        # It answers all paths that are not the API's, and so comes last.
        mount(app, engine, decoder)
    return app


def _version() -> str:
    try:
        return version("deep-image-zoo")
    except PackageNotFoundError:
        return "0"


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_error_response(error)
