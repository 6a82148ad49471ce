"""The life of the process: listening, ready, SIGTERM, the last response."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from serve.engine.batching import Engine
from serve.http.listening import finish_listening
from serve.http.uvicorn_patches import ControlledServer, Protocol
from serve.logs import start_line
from serve.settings import Settings
from serve.signals import ending_signals

# Seconds for the requests of new connections to arrive after listening has stopped.
LAST_REQUESTS = 1.0
# Seconds beyond `shutdown_timeout` after which the process ends, even if a run hangs.
LAST_RESORT = 6.0


class Server(ControlledServer):
    """A server that says when its models are ready, and loses no request on SIGTERM.

    After SIGTERM or SIGHUP the server reports that it is not ready, and keeps serving for `settings.linger` seconds
    while load balancers notice; each response closes its connection. Then it stops listening and finishes the requests
    that it has accepted, for at most `settings.shutdown_timeout` seconds. Responses that do not end, of which each open
    page has one, are cut off. SIGINT skips the lingering; a second signal ends the process at once. The server never
    waits for threads that load a model or decode an image.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,  # Protocol writes it
                proxy_headers=False,  # the application looks at them
                timeout_keep_alive=settings.keep_alive,
                # Before that, the engine sends the responses to requests that are cut off.
                timeout_graceful_shutdown=int(settings.shutdown_timeout) + 2,
            )
        )
        # The engine's threads need the interpreter's lock between runs. By default, they get it up to 5 ms late.
        sys.setswitchinterval(0.0005)
        self.engine: Engine = app.state.engine
        self._streams: set[asyncio.Task[Any]] = app.state.streams
        self.failed = False
        self._settings = settings
        self._listeners: list[socket.socket] = []
        self._signals = ending_signals()
        self._stop = asyncio.Event()
        self._linger = 0.0
        self._grpc = None
        if settings.grpc_port:
            # Here, as nothing of gRPC is loaded without need.
            from serve.routes.grpc.server import GrpcServer

            self._grpc = GrpcServer(app.state.plane, app.state.bodies, app.state.accounts)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal arrives, and end the process with status 0; return if no model could be loaded.

        Raises:
            CannotListen: If gRPC's port cannot be had.
        """
        self._listeners = sockets or []
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self.serve(self._listeners))
            if not self.failed:
                self._leave()  # here, as the runner and the interpreter would wait for all threads

    def _leave(self, status: int = 0) -> NoReturn:
        self.engine.repository.close()
        os._exit(status)

    def _signalled(self, number: int) -> None:
        # A second signal ends the process directly: the event loop may be busy then.
        for later in self._signals:
            signal.signal(later, lambda *_: self._leave())
        self._linger = 0.0 if number == signal.SIGINT else self._settings.linger
        self._stop.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, for gRPC first: its port may be taken, and the models need not be loaded to find out."""
        if self._grpc is not None:
            await self._grpc.start()
        await super().startup(sockets)

    async def run_until_stop(self) -> None:
        """Wait for a signal and linger, or return if no model could be loaded."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._signalled, number)
        announcing = asyncio.create_task(self._announce())
        await self._stop.wait()
        announcing.cancel()
        self.engine.draining = True
        await asyncio.sleep(self._linger)

    async def _announce(self) -> None:
        await asyncio.to_thread(self.engine.wait)
        # The objects that exist now stay (the app has 200,000). To traverse them in each collection would delay
        # requests by a tenth of a second.
        gc.collect()
        gc.freeze()
        count = len(self.engine.models())
        if not count:
            self.failed = True
            self._stop.set()
            return
        host, port = self._listeners[0].getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        by_grpc = "" if self._grpc is None else f"{shown}:{self._settings.grpc_port} (gRPC) and "
        message = f"Serving {count} {'model' if count == 1 else 'models'} on {by_grpc}http://{shown}:{port}"
        print(start_line(message, self._settings), flush=True)

    async def drain(self) -> None:
        """Accept the connections that have begun, stop listening, and set the limits for the remaining requests."""
        await finish_listening(self._listeners)
        self.stop_accepting()
        await asyncio.sleep(LAST_REQUESTS)
        seconds = self._settings.shutdown_timeout
        for task in self._streams:
            task.cancel()
        asyncio.get_running_loop().call_later(seconds, self.engine.abandon)
        if self._grpc is not None:  # as one of the tasks that uvicorn waits for
            self.wait_for(asyncio.create_task(self._grpc.drain(seconds)))
        last = threading.Timer(seconds + LAST_RESORT, self._leave, [1])
        last.daemon = True
        last.start()
