"""The ASGI application: every route in one place, one engine behind them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount

from serve.bodies import Bodies
from serve.classify import Classify
from serve.decoding import Decoder
from serve.engine import Engine
from serve.errors import ApiError
from serve.gate import Gate
from serve.routes import Rest, api_routes
from serve.settings import Settings, from_environment
from serve.v2 import V2


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for any ASGI server; without `settings`, those of the environment (SERVE_MODELS, ...)."""
    settings = settings or Settings(**from_environment())
    engine = Engine(settings)
    bodies = Bodies(settings)
    decoder = Decoder(settings, engine.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        decoder.close()

    # FastAPI's own /docs fetches its script from elsewhere.
    app = FastAPIOffline(
        static_url="/docs/files",
        title="Deep Image Zoo",
        version=_version(),
        description='Image classification. Every answer that is no success is `{"error": "..."}`.',
        lifespan=lifespan,
        middleware=[Middleware(Gate, engine=engine)],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
        },
        redoc_url=None,
    )
    app.state.engine = engine
    classify, v2 = Classify(engine, bodies, decoder), V2(engine, bodies, app.version)
    # Not include_router: what FastAPI puts around an included router takes time in every request. In front: so does
    # each route that is asked before.
    app.router.routes[:0] = api_routes(classify, v2, engine.metrics).routes
    app.router.routes.append(Rest(app.routes))
    if settings.app:
        from serve.app import mount

        # Answers for all paths that are not the API's, and so comes last.
        app = mount(app, engine)
        for route in app.routes:
            if isinstance(route, Mount) and isinstance(route.app, FastAPI):
                _settle(route.app)
    return app


def _settle(gradio: Any) -> None:
    """Makes the mounted Gradio application one of the house."""
    gradio.add_exception_handler(HTTPException, _app_error)
    # It looks for work of its queue a thousand times a second, and for progress a hundred times: 3 % of a core.
    queue = gradio.get_blocks()._queue
    queue.sleep_when_free, queue.progress_update_sleep_when_free = 0.05, 0.5


def _version() -> str:
    try:
        return version("deep-image-zoo")
    except PackageNotFoundError:
        return "0"


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(error.status, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail), dict(error.headers or {}))


async def _app_error(request: Request, error: Exception) -> Response:
    # The page's own script reads `detail`.
    assert isinstance(error, HTTPException)
    answer = {"error": str(error.detail), "detail": error.detail}
    return JSONResponse(answer, error.status_code, dict(error.headers or {}))


def _error(status: int, message: str, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")
