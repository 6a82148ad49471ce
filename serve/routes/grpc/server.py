"""The gRPC server: its port, its limits, and its end."""

import grpc

from serve.http.bodies import Bodies
from serve.http.gate import Accounts
from serve.http.listening import CannotListen
from serve.routes.data_plane import DataPlane
from serve.routes.grpc.ahead import Ahead
from serve.routes.grpc.arrival import Arrivals
from serve.routes.grpc.calls import Calls
from serve.routes.grpc.health import HEALTH, Health
from serve.routes.grpc.service import INFER, SERVICE, Service
from serve.routes.grpc.streams import Streams
from serve.settings import Settings

# Most calls of ModelInfer at a time, and most that the library's own loop lets in. Those whose message has not arrived,
# or that wait in the queue, have limits of their own.
MAX_CALLS = 2048
# Most connections, as clients share one for all their calls.
MAX_CONNECTIONS = 1024
# Calls that wait to be let in, a few kilobytes each. Beyond the first number the library refuses new ones at random
# (CANCELLED), beyond the second all. With its own 1,000 and 3,000, one connection that begins and resets thousands of
# calls has those of everybody else cancelled.
MAX_PENDING = 8192, 16384
# Most bytes of a call's metadata.
MAX_METADATA = 16 * 2**10
# Seconds for a client to begin to speak HTTP/2, and to answer a ping.
HANDSHAKE = 10.0
PING = 20.0
# Bytes of a message that may arrive before somebody reads it.
AHEAD = 64 * 2**10


class GrpcServer:
    """Serves `plane` by gRPC on the running event loop. TLS is left to a proxy."""

    def __init__(self, plane: DataPlane, bodies: Bodies, accounts: Accounts) -> None:
        self._settings = plane.engine.settings
        self._streams = Streams()
        calls = Calls(plane.engine, accounts, Arrivals(self._settings, bodies))
        methods = Service(plane, calls, self._streams).handlers()
        self._infer = methods.pop(INFER)
        self._handlers = [
            grpc.method_handlers_generic_handler(SERVICE, methods),
            Health(plane, calls, (SERVICE, HEALTH)).handler(),
        ]

    async def start(self) -> None:
        """Listen.

        Raises:
            CannotListen: If the port cannot be had.
        """
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._server = grpc.aio.server(
            handlers=self._handlers, options=_options(self._settings), maximum_concurrent_rpcs=MAX_CALLS
        )
        try:
            self._server.add_insecure_port(address)
        except RuntimeError:
            raise CannotListen(f"cannot listen on {address} for gRPC; choose another with --grpc-port") from None
        ahead = Ahead(self._server, SERVICE, INFER, self._infer, MAX_CALLS)
        await self._server.start()
        ahead.start()
        self._ahead = ahead

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, finish the others within `seconds`, and stop."""
        self._streams.drain()
        await self._server.stop(seconds)
        await self._ahead.stopped()


def _options(settings: Settings) -> list[tuple[str, int]]:
    idle = settings.keep_alive * 1000
    return [
        ("grpc.max_receive_message_length", settings.max_body),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.absolute_max_metadata_size", MAX_METADATA),
        ("grpc.max_concurrent_streams", MAX_CALLS),
        ("grpc.server.max_pending_requests", MAX_PENDING[0]),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING[1]),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE * 1000)),
        # Connections without a call are closed, and those whose client no longer answers.
        ("grpc.max_connection_idle_ms", idle),
        ("grpc.keepalive_time_ms", idle),
        ("grpc.keepalive_timeout_ms", int(PING * 1000)),
        # Otherwise the library would take in as much as the connection can carry before a call is let in.
        ("grpc.http2.lookahead_bytes", AHEAD),
        ("grpc.http2.bdp_probe", 0),
        # Otherwise two servers could share the port without knowing.
        ("grpc.so_reuseport", 0),
    ]
