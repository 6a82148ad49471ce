"""What holds for every call: the key, an id, metrics, the access log, and a status even after a failure."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers

from serve import tracing
from serve.engine.batching import Engine
from serve.errors import ApiError, BadRequest
from serve.http.access import KEY_NEEDED, has_key
from serve.http.bodies import SMALL
from serve.http.gate import Accounts, Record, request_id
from serve.routes.grpc.arrival import Arrivals

log = logging.getLogger("serve")

STATUS = grpc.StatusCode
CODES = {
    400: STATUS.INVALID_ARGUMENT,
    401: STATUS.UNAUTHENTICATED,
    403: STATUS.PERMISSION_DENIED,
    404: STATUS.NOT_FOUND,
    408: STATUS.DEADLINE_EXCEEDED,
    413: STATUS.INVALID_ARGUMENT,
    415: STATUS.INVALID_ARGUMENT,
    422: STATUS.INVALID_ARGUMENT,
    503: STATUS.UNAVAILABLE,
    504: STATUS.DEADLINE_EXCEEDED,
}
# Larger messages are parsed in another thread, as over HTTP.
SLOW = 256 * 2**10
# Clients refuse long texts: they come as headers.
MAX_TEXT = 1000

Handler = Callable[[Any, "Call"], Awaitable[Any]]


@dataclass(slots=True, eq=False)
class Call:
    """A call: its place in metrics and log, and its context in the library."""

    record: Record
    context: Any
    path: str

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the client's deadline; None if it has none."""
        left: float | None = self.context.time_remaining()
        return left

    @property
    def client(self) -> str:
        """The client's address, for the log."""
        peer: str = self.context.peer().partition(":")[2].rpartition(":")[0]
        return peer.replace("%5B", "").replace("%5D", "")


class Calls:
    """Wraps the methods of a service into what the library calls."""

    def __init__(self, engine: Engine, accounts: Accounts, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self._engine = engine
        self._accounts = accounts
        self._key = (engine.settings.api_key or "").encode()

    def unary(
        self, path: str, route: str, parse: Callable[[bytes], Any], handler: Handler, *, keyless: bool = False
    ) -> Any:
        """Wrap a method with one message.

        To the library it has a stream of raw messages: only so can it refuse a call before its message is in memory.
        """

        async def handle(_: Any, context: Any) -> bytes:
            call = self.open(context, route, path)

            async def work() -> bytes:
                self.check_key(call, keyless=keyless)
                body = await self.arrivals.read(context)
                async with self.arrivals.room(body):
                    message = await beside(parse, body)
                    del body
                    response = await handler(message, call)
                return bytes(response.SerializeToString())

            try:
                return await self.account(call, work())
            except ApiError as error:
                await abort(call, error)
                raise  # `abort` has raised

        return grpc.stream_unary_rpc_method_handler(handle)

    def open(self, context: Any, route: str, path: str) -> Call:
        """Begin a call."""
        pairs = _pairs(context)
        call = Call(Record(request_id(pairs), f"grpc_{route}"), context, path)
        context.set_trailing_metadata((("x-request-id", call.record.id),))
        return call

    def check_key(self, call: Call, *, keyless: bool = False) -> None:
        """Raise ApiError (401) for a call without the key, if one is needed."""
        if self._key and not keyless and not has_key(Headers(raw=_pairs(call.context)), self._key):
            raise ApiError(401, KEY_NEEDED)

    async def account(self, call: Call, work: Awaitable[bytes]) -> bytes:
        """Await the response of a call, and account for it; raises only ApiError, and CancelledError."""
        began = time.perf_counter()
        record, outcome = call.record, ""
        trace = tracing.Request(_pairs(call.context))
        self._accounts.in_flight += 1
        try:
            response = await work
            record.status = 200
            return response
        except ApiError as error:
            record.status, outcome = error.status, error.outcome
            raise
        except asyncio.CancelledError:
            left = call.seconds_left
            record.status = 503 if self._engine.draining else 499 if left is None or left > 0 else 504
            raise
        except Exception:
            log.exception("request %s failed", record.id)
            record.status = 500
            raise ApiError(500, f"internal error; the log has it under request id {record.id}") from None
        finally:
            self._accounts.in_flight -= 1
            trace.end(
                record.route,
                record.status,
                rpc_system="grpc",
                rpc_method=call.path,
                serve_model=record.model,
                serve_request_id=record.id,
            )
            self._accounts.close(record, time.perf_counter() - began, outcome, call.client, "GRPC", call.path)


async def abort(call: Call, error: ApiError) -> None:
    """End a call with the status of an error."""
    trailing = [("x-request-id", call.record.id)]
    if error.retry_after is not None:
        trailing.append(("grpc-retry-pushback-ms", str(error.retry_after * 1000)))  # gRPC's own Retry-After
    await call.context.abort(CODES.get(error.status, STATUS.INTERNAL), short(error.message), tuple(trailing))


def short(text: str) -> str:
    """Shorten a text to what fits into a header."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


async def beside(parse: Callable[[bytes], Any], body: bytes) -> Any:
    """Parse a message, in another thread if it takes long enough to hold up other requests."""
    return await asyncio.to_thread(parse, body) if len(body) > SLOW else parse(body)


def small(kind: Any) -> Callable[[bytes], Any]:
    """Return a parser of messages of the class `kind`, which have no tensors."""

    def read(body: bytes) -> Any:
        if len(body) > SMALL:  # once parsed, it can take fifty times its bytes
            raise ApiError(413, f"{len(body):,} bytes are too many for {kind.DESCRIPTOR.name}: at most {SMALL:,}")
        return parse(kind, body)

    return read


def parse(kind: Any, body: bytes) -> Any:
    """Parse a message of the class `kind`; raises BadRequest if it is none."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.full_name}") from None


def _pairs(context: Any) -> list[tuple[bytes, bytes]]:
    """Return the metadata as HTTP has its headers."""
    return [
        (key.encode("latin-1", "replace"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for key, value in context.invocation_metadata() or ()
    ]
