"""The life of the process: listening, ready, SIGTERM, the last answer."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from serve.engine.batching import Engine
from serve.http.listening import finish_listening
from serve.http.protocol import Protocol
from serve.settings import Settings

# Seconds for the requests of new connections to come when listening has ended.
LAST_REQUESTS = 1.0
# Seconds for the answers to requests for which there was no more time.
LAST_ANSWERS = 1.0
# Seconds beyond `shutdown_timeout` after which the process is ended, even if a run hangs.
LAST_RESORT = 6.0


class Server(uvicorn.Server):
    """uvicorn, with three differences: it says when the models are ready, does not poll, and loses nothing on SIGTERM.

    From SIGTERM on the server reports that it is not ready, and goes on serving for `settings.linger` seconds while
    load balancers learn of it; every answer closes its connection. Then it stops listening and finishes what it has
    accepted, for at most `settings.shutdown_timeout` seconds; answers without an end, of which each open page has one,
    are ended. SIGINT skips the lingering; a second signal ends the process at once. Threads that load a model or decode
    a picture are never waited for.
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
                date_header=False,
                # Requests that have to be cut off are answered by the engine first.
                timeout_graceful_shutdown=int(settings.shutdown_timeout) + 2,
            )
        )
        # The engine's threads need the interpreter's lock between runs, and under load would else get it 5 ms late.
        sys.setswitchinterval(0.0005)
        self.engine: Engine = app.state.engine
        self._streams: set[asyncio.Task[Any]] = app.state.streams
        self.failed = False
        self._settings = settings
        self._stop = asyncio.Event()
        self._linger = 0.0

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes, and end the process with status 0; return where no model could be loaded."""
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self.serve(sockets))
            if not self.failed:
                _leave()  # here: the runner and the interpreter would wait for all threads

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        yield

    def _signalled(self, number: int) -> None:
        # A second signal ends the process directly: the event loop may be busy then.
        for later in (signal.SIGTERM, signal.SIGINT):
            signal.signal(later, lambda *_: _leave())
        self._linger = self._settings.linger if number == signal.SIGTERM else 0.0
        self._stop.set()

    async def main_loop(self) -> None:
        """Wait for a signal, or until no model could be loaded."""
        announced = asyncio.create_task(self._announce())
        await self._stop.wait()
        announced.cancel()
        self.engine.draining = True
        await asyncio.sleep(self._linger)

    async def _announce(self) -> None:
        await asyncio.to_thread(self.engine.wait)
        # The objects that exist now stay (the app has 200,000): to walk through them in each collection would hold up
        # requests for a tenth of a second.
        gc.collect()
        gc.freeze()
        count = len(self.engine.models())
        if not count:
            self.failed = True
            self._stop.set()
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        print(f"Serving {count} {'model' if count == 1 else 'models'} on http://{shown}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept who has come, stop listening, answer, close."""
        await finish_listening(sockets or [])
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS)
        seconds = self._settings.shutdown_timeout
        for task in self._streams:
            task.cancel()
        cut = asyncio.get_running_loop().call_later(seconds, self.engine.abandon)
        last = threading.Timer(seconds + LAST_RESORT, os._exit, [1])
        last.daemon = True
        last.start()
        await super().shutdown(sockets)
        cut.cancel()
        if self.server_state.tasks:  # cut off, but their answers are still to be sent
            await asyncio.wait(self.server_state.tasks, timeout=LAST_ANSWERS)


def _leave() -> NoReturn:
    os._exit(0)
