"""The ASGI application: every route in one place, one engine behind them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve.engine import Engine
from serve.settings import Settings, from_environment


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for any ASGI server; without `settings`, those of the environment (SERVE_MODELS, ...)."""
    settings = settings or Settings(**from_environment())
    engine = Engine(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    app = FastAPI(title="Image classification", lifespan=lifespan)
    app.state.engine = engine
    if settings.app:
        from serve.app import mount

        app = mount(app, engine)
    return app
