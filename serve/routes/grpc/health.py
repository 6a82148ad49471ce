"""The standard health service of gRPC: the same answer as /v2/health/ready."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb

from serve.errors import ApiError, Overloaded
from serve.routes.data_plane import DataPlane
from serve.routes.grpc.calls import Calls, abort, small

HEALTH = "grpc.health.v1.Health"
# Seconds between two looks for a change, for those who watch.
INTERVAL = 1.0
# Most calls that watch.
MAX_WATCHES = 64


class Health:
    """Answers for the server as a whole (an empty name), and for each service by its name."""

    def __init__(self, plane: DataPlane, calls: Calls, services: tuple[str, ...]) -> None:
        self._engine = plane.engine
        self._calls = calls
        self._services = ("", *services)
        self._watches = 0

    def handler(self) -> Any:
        """Build what the library calls for each method."""
        check = self._calls.unary(f"/{HEALTH}/Check", "health", small(pb.HealthCheckRequest), self._check, keyless=True)
        # To the library its message is a stream too, so that it is read within the limits.
        watch = grpc.stream_stream_rpc_method_handler(self._watch)
        return grpc.method_handlers_generic_handler(HEALTH, {"Check": check, "Watch": watch})

    def _status(self, service: str) -> Any:
        kinds = pb.HealthCheckResponse
        if service not in self._services:
            return kinds.SERVICE_UNKNOWN
        return kinds.NOT_SERVING if self._engine.unready else kinds.SERVING

    async def _check(self, message: Any, _: Any) -> Any:
        status = self._status(message.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            valid = ", ".join(map(repr, self._services))
            raise ApiError(404, f"unknown service {message.service!r:.100}; valid are {valid}")
        return pb.HealthCheckResponse(status=status)

    async def _watch(self, _: Any, context: Any) -> None:
        call = self._calls.open(context, "health_watch", f"/{HEALTH}/Watch")
        try:
            if self._watches >= MAX_WATCHES:
                raise Overloaded("too many calls watch the health")
            service = small(pb.HealthCheckRequest)(await self._calls.arrivals.read(context)).service
        except ApiError as error:
            await abort(call, error)
        self._watches += 1
        try:
            last = None
            while not (self._engine.draining and last == pb.HealthCheckResponse.NOT_SERVING):
                status = self._status(service)
                if status != last:
                    await context.write(pb.HealthCheckResponse(status=status).SerializeToString())
                    last = status
                await asyncio.sleep(INTERVAL)
        finally:
            self._watches -= 1
