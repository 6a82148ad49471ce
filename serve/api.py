"""The ASGI application: all routes, and the engine that they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.engine.batching import Engine
from serve.http.bodies import Bodies
from serve.http.gate import KEYLESS, Gate
from serve.http.responses import EXCEPTION_HANDLERS
from serve.http.routing import route_first
from serve.images.decoder import Decoder
from serve.routes.classify import Classify
from serve.routes.openapi import with_key
from serve.routes.table import api_routes
from serve.routes.v2 import V2
from serve.settings import Settings, from_environment

TITLE = "Deep Image Zoo"


class Application(FastAPI):
    """A FastAPI application whose API routes bypass FastAPI's middleware and parameters, which they do not use.

    These take 80 of the 340 microseconds of processor time that a request for a small image would need, and more than a
    fifth of the requests per second. FastAPI describes all routes at /docs, and serves the app and the documentation.
    """

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        scope["app"] = self
        await (self.behind if scope["type"] == "lifespan" else self.front)(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as FastAPI does."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application for any ASGI server; without `settings`, from the environment (ZOO_SERVE_MODELS, ...)."""
    settings = settings or Settings(**from_environment())
    engine = Engine(settings)
    bodies = Bodies(settings)
    decoder = Decoder(settings, engine.metrics)
    routes = api_routes(Classify(engine, bodies, decoder), V2(engine, bodies, _version()), engine.metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        decoder.close()

    app = Application(
        title=TITLE,
        version=_version(),
        description='Image classification. Every response other than a success is `{"error": "..."}`.',
        lifespan=lifespan,
        exception_handlers=EXCEPTION_HANDLERS,
        docs_url=None,
        redoc_url=None,
    )
    # FastAPI's own /docs loads its script from another server.
    offline = FastAPIOffline(static_url="/docs/files", title=TITLE, redoc_url=None)
    for route in offline.routes:
        if isinstance(route, APIRoute) and route.methods:
            route.methods.add("HEAD")  # as for Starlette's own routes
    app.router.routes.extend(route for route in offline.routes if getattr(route, "path", "") != offline.openapi_url)
    app.front = Gate(route_first(routes, app.behind), engine)
    app.state.engine = engine
    app.state.streams = set[asyncio.Task[Any]]()  # responses that do not end
    app.router.routes.extend(routes)
    if settings.api_key:
        describe = app.openapi
        app.openapi = lambda: with_key(describe(), KEYLESS)  # type: ignore[method-assign]
    if settings.app:
        from serve.app.page import mount

        # Last, as it handles all paths that no other route has.
        mount(app, engine, decoder)
    return app


def _version() -> str:
    try:
        return version("deep-image-zoo")
    except PackageNotFoundError:
        return "0"
