"""What holds for every request: an id, the key, metrics, the access log, and a response even after a failure."""

import asyncio
import base64
import hmac
import itertools
import logging
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engine.batching import Engine
from serve.http.bodies import Gone
from serve.http.responses import error_response
from serve.http.routing import route_path

log = logging.getLogger("serve")
access = logging.getLogger("serve.access")

RECORD = "serve.record"
KEYLESS = ("/v2/health/live", "/v2/health/ready")  # for load balancers and Kubernetes
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


class Gate:
    """ASGI middleware around all routes, including the app's."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._key = (engine.settings.api_key or "").encode()
        self._counters: dict[tuple[str, str, str], Any] = {}
        self._latencies: dict[str, Any] = {}
        self._in_flight = 0
        engine.metrics.in_flight.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a websocket, or pass on the events of the application's life."""
        if scope["type"] == "http":
            await self._handle(scope, receive, send)
        elif scope["type"] == "websocket" and not self._admits(scope):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        record = Record(_request_id(scope))
        scope[RECORD] = record
        send = self._with_headers(send, record)
        self._in_flight += 1
        try:
            app = self._app if self._admits(scope) else _refusal()
            await app(scope, receive, send)
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
            self._in_flight -= 1
            self._account(scope, record, time.perf_counter() - began)

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

    def _admits(self, scope: Scope) -> bool:
        if not self._key or route_path(scope) in KEYLESS:
            return True
        headers = Headers(scope=scope)
        kind, _, value = headers.get("authorization", "").partition(" ")
        # Header values are decoded as Latin-1; as bytes, a key may hold any characters.
        offered = [headers.get("x-api-key", "").encode("latin-1")]
        if kind.lower() == "bearer":
            offered.append(value.strip().encode("latin-1"))
        elif kind.lower() == "basic":
            # A browser sends this for the app: any user name, and the key as the password.
            with suppress(ValueError):  # not base64, or not even ASCII
                offered.append(base64.b64decode(value, validate=True).partition(b":")[2])
        return any(hmac.compare_digest(key, self._key) for key in offered)

    def _account(self, scope: Scope, record: Record, seconds: float) -> None:
        status = record.status
        outcome = OUTCOMES.get(status) or ("ok" if status < 400 else "refused" if status < 500 else "failed")
        key = (record.route, record.model, outcome)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._engine.metrics.requests.labels(*key)
            self._latencies[record.route] = self._engine.metrics.latency.labels(record.route)
        counter.inc()
        self._latencies[record.route].observe(seconds)
        if self._engine.settings.access_log:
            client = scope.get("client")
            fields = {
                "request_id": record.id,
                "client": client[0] if client else "",
                "method": scope["method"],
                # Quoted: a line break in it would start another line of the log.
                "path": quote(scope["path"], safe="/:=@,+~"),
                "status": status,
                "milliseconds": round(seconds * 1000, 2),
            }
            access.info("%(client)s %(method)s %(path)s %(status)s %(milliseconds)s ms %(request_id)s", fields)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"{PROCESS}-{next(COUNT):x}"


def _refusal() -> Response:
    return error_response(
        401, "this server needs a key: Authorization: Bearer KEY", {"www-authenticate": 'Basic realm="key"'}
    )
