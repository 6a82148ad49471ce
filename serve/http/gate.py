"""What holds for every request: an id, metrics, the access log, and a response even after a failure."""

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import tracing
from serve.engine.batching import Engine
from serve.http.bodies import Gone
from serve.http.responses import OUTCOME, error_response

log = logging.getLogger("serve")
access = logging.getLogger("serve.access")

RECORD = "serve.record"
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# A counter: random bytes for each request would take a system call, which releases the interpreter's lock.
PROCESS = os.urandom(6).hex()
COUNT = itertools.count(1)
OUTCOMES = {408: "late", 499: "gone", 503: "overloaded", 504: "late"}


@dataclass(slots=True)
class Record:
    """What metrics and the access log hold about a request; the routes fill it in."""

    id: str
    route: str = "other"
    model: str = ""
    status: int = 0


class Accounts:
    """Metrics and access log of all requests, whatever carries them.

    Attributes:
        in_flight: how many requests are being answered.
    """

    def __init__(self, engine: Engine) -> None:
        self.in_flight = 0
        self._engine = engine
        self._counters: dict[tuple[str, str, str], Any] = {}
        self._latencies: dict[str, Any] = {}
        engine.metrics.in_flight.set_function(lambda: self.in_flight)

    def close(self, record: Record, seconds: float, outcome: str, client: str, method: str, path: str) -> None:
        """Account for a request after its response. `outcome` is that of its error; empty: that of the status."""
        status = record.status
        outcome = "draining" if status == 503 and self._engine.draining else outcome or OUTCOMES.get(status, "")
        outcome = outcome or ("ok" if status < 400 else "refused" if status < 500 else "failed")
        key = (record.route, record.model, outcome)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._engine.metrics.requests.labels(*key)
            self._latencies[record.route] = self._engine.metrics.latency.labels(record.route)
        counter.inc()
        self._latencies[record.route].observe(seconds)
        if self._engine.settings.access_log:
            fields = {
                "request_id": record.id,
                "client": client,
                "method": method,
                # Quoted: a line break in it would start another line of the log.
                "path": quote(path, safe="/:=@,+~"),
                "status": status,
                "milliseconds": round(seconds * 1000, 2),
            }
            access.info("%(client)s %(method)s %(path)s %(status)s %(milliseconds)s ms %(request_id)s", fields)


class Gate:
    """ASGI middleware around all routes, including the app's."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.accounts = Accounts(engine)
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a websocket, or pass on the events of the application's life."""
        if scope["type"] == "http":
            await self._handle(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        record = Record(request_id(scope["headers"]))
        scope[RECORD] = record
        trace = tracing.Request(scope["headers"])
        send = self._with_headers(send, record)
        self.accounts.in_flight += 1
        try:
            await self._app(scope, receive, send)
        except Gone:
            record.status = 499
        except asyncio.CancelledError:
            # The time to finish accepted requests is over; the client still waits for a response.
            if not self._engine.draining or record.status:
                raise
            ended = error_response(503, "the server is shutting down", {"retry-after": "1"})
            await ended(scope, receive, send)
        except Exception:
            log.exception("request %s failed", record.id)
            if not record.status:
                failed = error_response(500, f"internal error; the log has it under request id {record.id}")
                await failed(scope, receive, send)
            record.status = 500
        finally:
            self.accounts.in_flight -= 1
            seconds = time.perf_counter() - began
            trace.end(
                record.route,
                record.status,
                http_route=record.route,
                http_request_method=scope["method"],
                http_response_status_code=record.status,
                serve_model=record.model,
                serve_request_id=record.id,
            )
            client = scope.get("client")
            self.accounts.close(
                record, seconds, scope.get(OUTCOME, ""), client[0] if client else "", scope["method"], scope["path"]
            )

    def _with_headers(self, send: Send, record: Record) -> Send:
        """Wrap `send`: note the status, and add the headers that every response has."""
        extra = [(b"x-request-id", record.id.encode())]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message.get("headers", ()), *extra]
                if self._engine.draining:
                    # The client should come back on another connection, to another server.
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        return send_with_headers


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that a request's headers give it, or else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"{PROCESS}-{next(COUNT):x}"
