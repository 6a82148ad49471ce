"""Lets calls of one method in many at a time, so that their images form batches.

The library's server asks its core for one call, and for the next once it has that one. Its image would run alone while
the other calls wait in the core, where nobody sees them. Here the core is asked for many calls ahead: a turn of the
event loop lets in all that have come, as over HTTP.

This file alone uses private interfaces of grpcio, whose version pyproject.toml bounds for it.
"""

import asyncio
from typing import Any

import grpc
from grpc._cython import cygrpc

# How many calls the core is asked for at a time: a full batch.
AT_A_TIME = 32

_library: Any = cygrpc


class Ahead:
    """Lets in the calls of a method. The library's own loop lets in one at a time beside it.

    Args:
        server: The library's server, before its start.
        service: The service's name.
        method: The method's name.
        handler: What the library calls for it.
        most: The most calls at a time; more are refused (RESOURCE_EXHAUSTED), as the library's own loop does.
    """

    def __init__(self, server: grpc.aio.Server, service: str, method: str, handler: Any, most: int) -> None:
        server.add_registered_method_handlers(service, {method: handler})
        self._core: Any = server._server
        self._path = f"/{service}/{method}"
        self._resolver = _library._MethodResolver([], {self._path: handler})
        self._most = most
        self._calls: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Let calls in, until the server stops."""
        self._doors = [asyncio.create_task(self._let_in()) for _ in range(AT_A_TIME)]

    async def stopped(self) -> None:
        """Wait until nothing asks the core any more; the server must have been stopped."""
        await asyncio.gather(*self._doors)

    async def _let_in(self) -> None:
        loop = asyncio.get_running_loop()
        while self._core.is_running():
            try:
                state = await self._core._request_registered_call(self._path.encode())
            except _library._RequestCallError:  # the server stops
                continue
            refused = len(self._calls) >= self._most
            call = _library._handle_rpc(self._path, self._resolver, (), state, loop, refused)
            task = loop.create_task(_library._schedule_rpc_coro(call, state, loop, self._path))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
