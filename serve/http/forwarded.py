"""What proxies say about a request: its client, scheme, host and path prefix."""

import re
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serve.http.routing import route_path
from serve.settings import VALID_PREFIX, Settings

# The host that the request itself names, before a proxy's X-Forwarded-Host replaces it in the scope.
SENT_HOST = "serve.sent_host"
# A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
HOST = re.compile(r"([\w.-]{1,255}|\[[0-9a-f:.]{2,45}\])(:\d{0,5})?", re.ASCII | re.IGNORECASE)

PROTO = b"x-forwarded-proto"
HOST_HEADER = b"x-forwarded-host"
PREFIX_HEADER = b"x-forwarded-prefix"
# Removed unless a trusted proxy sent them: Gradio would believe anybody.
BELIEVED = frozenset((PROTO, HOST_HEADER, PREFIX_HEADER, b"x-gradio-server"))
SAID = BELIEVED | {b"x-forwarded-for"}


class Forwarded:
    """ASGI middleware that puts what trusted proxies say into the scope, and removes what others say.

    X-Forwarded-For and -Proto are uvicorn's work. X-Forwarded-Host replaces the header Host. X-Forwarded-Prefix, or the
    setting `root_path`, becomes the scope's `root_path`. The path starts with it from then on, whether the proxy has
    removed it or not.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._proxied: Any = ProxyHeadersMiddleware(app, list(settings.forwarded_allow_ips))  # type: ignore[arg-type]
        self._trusted = self._proxied.trusted_hosts
        self._prefix = settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        said: dict[bytes, list[str]] = {}
        host = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name in SAID:
                said.setdefault(name, []).append(value.decode("latin-1"))
        scope[SENT_HOST] = host
        prefix = self._take(scope, said) if said else self._prefix
        if prefix:
            path = route_path(scope)
            if path != prefix and not path.startswith(f"{prefix}/"):
                scope["path"] = prefix + path
                scope["raw_path"] = prefix.encode() + scope.get("raw_path", path.encode())
            scope["root_path"] = prefix
        await (self._proxied if said else self._app)(scope, receive, send)

    def _take(self, scope: Scope, said: dict[bytes, list[str]]) -> str:
        """Replace the headers by those that count; return the path prefix."""
        headers = [(name, value) for name, value in scope["headers"] if name not in BELIEVED]
        scope["headers"] = headers
        client = scope.get("client")
        if not client or client[0] not in self._trusted:
            return self._prefix
        # Each proxy appends to the list, or adds a header: the client has used the first scheme, the first host, and a
        # path with all prefixes.
        if PROTO in said:
            headers.append((PROTO, _parts(said[PROTO])[0].encode("latin-1")))
        host = _parts(said.get(HOST_HEADER, [""]))[0]
        if HOST.fullmatch(host):
            headers[:] = [(name, value) for name, value in headers if name != b"host"]
            headers.append((b"host", host.encode()))
        prefixes = _parts(said.get(PREFIX_HEADER, [""]))
        if all(map(VALID_PREFIX.fullmatch, prefixes)):
            return "".join(prefix.rstrip("/") for prefix in prefixes)
        return self._prefix


def _parts(values: list[str]) -> list[str]:
    """Return the parts of a header that is a list, which may be sent several times."""
    return [part.strip() for part in ",".join(values).split(",")]
