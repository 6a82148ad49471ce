"""A running server with gRPC, and one in the test's own event loop."""

import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from serve.api import create_app
from serve.routes.grpc.server import GrpcServer
from serve.settings import Settings

sys.path.append(str(Path(__file__).parent))


def free_port() -> int:
    """Find a port that is free now: 0 turns gRPC off."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def models(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny(folder / "first").write(accuracy="12.5"), tiny(folder / "second", shape=(28, 28, 1), seed=1).write()]


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    """A process; `server.grpc` is its address."""
    port = free_port()
    folder = models[0].folder.parent
    with running("--models", folder, "--no-app", "--grpc-port", port, "--max-body", 2_000_000) as server:
        server.grpc = f"127.0.0.1:{port}"
        assert server.line.startswith(f"Serving 2 models on {server.grpc} (gRPC) and http://")
        yield server


Serving = Callable[..., AbstractAsyncContextManager[tuple[GrpcServer, Any, grpc.aio.Channel]]]


@pytest.fixture
def serving() -> Serving:
    """Start a server in the running event loop; yields it, the application's state, and a channel to it."""

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[tuple[GrpcServer, Any, grpc.aio.Channel]]:
        port = free_port()
        app = create_app(Settings(app=False, grpc_port=port, **settings))
        server = GrpcServer(app.state.plane, app.state.bodies, app.state.accounts)
        with app.state.engine:
            await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    yield server, app.state, channel
            finally:
                await server.drain(0)

    return serve
