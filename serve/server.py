"""The process's life: listening, ready, SIGTERM, the last answer."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from serve.engine import Engine
from serve.listening import finish_listening
from serve.settings import Settings

# New connections whose request is still on its way when listening ends.
LAST_REQUESTS = 1.0


class Server(uvicorn.Server):
    """uvicorn, with three differences: it says when the models are ready, does not poll, and loses nothing on SIGTERM.

    From SIGTERM on the server is not ready, and goes on serving for `settings.linger` seconds while load balancers
    learn of it; every answer closes its connection. Then it stops listening and finishes what it has accepted, for at
    most `settings.shutdown_timeout` seconds. SIGINT skips the lingering; a second signal ends the process at once.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                # What has to be cut off is answered by the engine first.
                timeout_graceful_shutdown=int(settings.shutdown_timeout) + 2,
            )
        )
        # The engine's thread needs the interpreter's lock between two runs, and would else get it 5 ms late under load.
        sys.setswitchinterval(0.0005)
        self.engine: Engine = app.state.engine
        self.failed = False
        self._settings = settings
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._linger = 0.0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        yield
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if self.engine.draining:
            self.force_exit = True
            self._stop_now.set()
        self.engine.draining = True
        self._linger = self._settings.linger if number == signal.SIGTERM else 0.0
        self._stop.set()

    async def main_loop(self) -> None:
        """Until a signal; also ends when not one model could be loaded."""
        announced = asyncio.create_task(self._announce())
        await self._stop.wait()
        announced.cancel()
        if not self.failed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop_now.wait(), self._linger)

    async def _announce(self) -> None:
        await asyncio.to_thread(self.engine.wait)
        # What is there now stays: to walk through it again and again (the app brings 200,000 objects) would
        # hold up requests for a tenth of a second each time.
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
        """Accepts who has come, stops listening, answers, closes."""
        await finish_listening(sockets or [])
        for server in self.servers:
            server.close()
        await asyncio.sleep(0 if self.force_exit else LAST_REQUESTS)
        cut = asyncio.get_running_loop().call_later(self._settings.shutdown_timeout, self.engine.abandon)
        await super().shutdown(sockets)
        cut.cancel()
