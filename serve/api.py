"""The ASGI application: all routes, and the engine that they share."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve import tracing
from serve.default_models import with_models
from serve.engine.batching import Engine
from serve.http.access import KEYLESS, Access, Sharing
from serve.http.bodies import Bodies
from serve.http.forwarded import Forwarded
from serve.http.gate import Gate
from serve.http.responses import EXCEPTION_HANDLERS, error_response
from serve.http.routing import route_first
from serve.http.workers import workers
from serve.images.decoder import Decoder
from serve.routes.classify import Classify
from serve.routes.data_plane import DataPlane
from serve.routes.openapi import with_key
from serve.routes.table import api_routes
from serve.routes.v2 import V2
from serve.settings import Settings, from_environment
from serve.signals import OnShutdown

log = logging.getLogger("serve")

TITLE = "Deep Image Zoo"
# Seconds between two looks for responses that do not end, during a shutdown.
CUT_OFF_SECONDS = 0.5
NO_APP = (
    "the app is not served: it keeps its visitors' sessions in one process, and this server has %d workers; start it "
    "with one worker, or without the app: ZOO_SERVE_APP=0"
)


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
        if scope["type"] == "http":
            # All files here are small. Starlette answers a wrong range in a form of its own.
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application for any ASGI server; without `settings`, from the environment (ZOO_SERVE_MODELS, ...).

    Raises:
        tracing.CannotTrace: The environment asks for spans that cannot be made.
    """
    settings = settings or Settings(**with_models(from_environment()))
    tracing.start()
    engine = Engine(settings)
    bodies = Bodies(settings)
    decoder = Decoder(settings, engine.metrics)
    plane = DataPlane(engine, decoder, _version())
    routes = api_routes(Classify(engine, bodies, decoder), V2(plane, bodies), engine.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        async with OnShutdown(partial(_end_requests, engine, app)):
            yield
        engine.close()
        decoder.close()
        await asyncio.to_thread(tracing.stop)

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
    # Without it, Gradio would let pages of all origins read the app's responses with the visitor's credentials.
    app.add_middleware(CORSMiddleware)
    count = workers()
    behind: ASGIApp = app.behind
    if settings.app and count == 1:
        from serve.app.client_api import client_functions
        from serve.app.direct_calls import DirectCalls

        behind = DirectCalls(behind, client_functions(engine, decoder), bodies)
    inner: ASGIApp = Access(route_first(routes, behind), settings)
    if settings.allow_origin:
        inner = Sharing(inner, settings)
    gate = Gate(inner, engine)
    app.front = Forwarded(gate, settings)
    app.state.engine = engine
    # What gRPC shares with the routes.
    app.state.plane, app.state.bodies, app.state.accounts = plane, bodies, gate.accounts
    app.state.streams = set[asyncio.Task[Any]]()  # responses that do not end: those of the app, if it is served
    app.router.routes.extend(routes)
    if settings.api_key:
        describe = app.openapi
        app.openapi = lambda: with_key(describe(), KEYLESS)  # type: ignore[method-assign]
    if settings.app and count > 1:
        log.warning("%s; the API is served", NO_APP % count)
        app.router.routes.append(Route("/", lambda _: error_response(503, NO_APP % count)))
    elif settings.app:
        from serve.app.page import mount

        # Last, as it handles all paths that no other route has.
        mount(app, engine, bodies, decoder)
    return app


async def _end_requests(engine: Engine, app: FastAPI) -> None:
    """Let a server that waits for its requests end: cut off responses that do not end, and limit the time of others."""
    engine.draining = True
    asyncio.get_running_loop().call_later(engine.settings.shutdown_timeout, engine.abandon)
    while True:  # a request that was accepted before may still begin such a response
        for task in tuple(app.state.streams):
            task.cancel()
        await asyncio.sleep(CUT_OFF_SECONDS)


def _version() -> str:
    try:
        return version("deep-image-zoo")
    except PackageNotFoundError:
        return "0"
