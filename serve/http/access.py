"""Who may use the server: the host a request names, the web page it comes from, and the key it carries."""

import base64
import hmac
import ipaddress
import socket
from contextlib import suppress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.forwarded import HOST, SENT_HOST
from serve.http.responses import error_response
from serve.http.routing import route_path
from serve.settings import Settings, variable

KEYLESS = ("/v2/health/live", "/v2/health/ready")  # for load balancers and Kubernetes
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
# What pages of other origins may use if --allow-origin admits them; and what no such page may.
SHARED = ("/classify/", "/v2/")
UNSHARED = "/v2/repository/models/"
# Headers of responses that such pages may read.
EXPOSED = ("Inference-Header-Content-Length", "Retry-After", "X-Request-Id")


class Access:
    """ASGI middleware that refuses requests before anything else is done for them.

    - 400 for an HTTP/1.1 request without exactly one valid Host (RFC 9112, section 3.2).
    - 403 for a host that is not one of the server's. Otherwise a web page could reach this server under its own name
      (DNS rebinding), and would count as one of the server's own pages. The attack needs a name from the public DNS.
      So IP addresses and names without a dot (localhost, a container, an upstream of nginx) are always accepted.
    - 403 for a request that may change something and comes from a page of another origin, by the rules of Go's
      CrossOriginProtection. Programs other than browsers send neither Sec-Fetch-Site nor Origin.
    - 401 without the key.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = (settings.api_key or "").encode()
        self._local = _is_loopback(_resolved(settings.host))
        self._hosts = tuple(word.lower().rstrip(".") for word in settings.allowed_host)
        self._origins = frozenset(settings.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a websocket."""
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        host = origin = site = ""
        hosts = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
                hosts += 1
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
        if hosts > 1 or (not HOST.fullmatch(host) if hosts else scope.get("http_version") == "1.1"):
            return error_response(400, "a request needs one valid header Host")
        if unknown := self._unknown_host(scope, host):
            return error_response(
                403,
                f"this server does not know the host {unknown!r}; if it is one of its names, start the server with "
                f"--allowed-host {unknown} or {variable('allowed_host')}",
            )
        if (site or origin) and self._is_foreign(scope, site, origin, host):
            return error_response(
                403,
                "a web page of another origin may not do this; --allow-origin admits pages to /classify and /v2. "
                "Behind a proxy, the header Host or X-Forwarded-Host must be the one that the browser sent",
            )
        if self._key and route_path(scope) not in KEYLESS and not self._has_key(Headers(scope=scope)):
            challenge = {"www-authenticate": 'Basic realm="key"'}
            return error_response(401, "this server needs a key: Authorization: Bearer KEY", challenge)
        return None

    def _unknown_host(self, scope: Scope, host: str) -> str:
        """Return the host that the server refuses; empty if there is none."""
        sent = _name((scope[SENT_HOST] or b"").decode("latin-1"))
        if self._hosts:
            return next((name for name in (sent, _name(host)) if not self._knows(name)), "")
        # Another ASGI server may listen on other addresses than the setting says.
        server = scope.get("server")
        if self._local and server and _is_loopback(server[0]) and not self._knows(sent):
            return sent
        return ""

    def _knows(self, name: str) -> bool:
        if "." not in name or name.endswith(".localhost") or _is_address(name):
            return True
        return any(word in ("*", name) or (word.startswith("*.") and name.endswith(word[1:])) for word in self._hosts)

    def _is_foreign(self, scope: Scope, site: str, origin: str, host: str) -> bool:
        """Return whether a request that may change something comes from a page of another origin."""
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS and not _is_preflight(scope):
            return False
        if site in ("same-origin", "none") or (not site and _same_host(origin, host)):
            return False
        admitted = origin in self._origins or "*" in self._origins
        return not (origin and admitted and is_shared(route_path(scope)))

    def _has_key(self, headers: Headers) -> bool:
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


class Sharing(CORSMiddleware):
    """CORS: lets web pages of the origins of --allow-origin read the responses of /classify and /v2."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.allow_origin,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; answer a preflight."""
        await (super().__call__ if is_shared(route_path(scope)) else self.app)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; an error has the form of all others."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return error_response(response.status_code, bytes(response.body).decode(), {"vary": "Origin"})


def is_shared(path: str) -> bool:
    """Return whether --allow-origin admits web pages of other origins to a path."""
    return f"{path}/".startswith(SHARED) and not path.startswith(UNSHARED)


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope)


@lru_cache(1024)
def _name(host: str) -> str:
    """Return the name or address in a Host header, in lower case, without brackets and port."""
    match = HOST.fullmatch(host)
    return match[1].lower().strip("[]").rstrip(".") if match else host.lower()


def _same_host(origin: str, host: str) -> bool:
    # Not the scheme: a proxy may end TLS and not say so. A proxy may also leave out the port, or add the usual one.
    authority, host = urlsplit(origin).netloc.lower(), host.lower()
    return (
        authority in (host, host.removesuffix(":80"), host.removesuffix(":443")) or authority.partition(":")[0] == host
    )


@lru_cache(1024)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _resolved(host: str) -> str:
    """Return the address that the server listens on for `--host`: 127.1 and many a machine's own name are loopback."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):  # then it cannot listen either
        return host


@lru_cache(16)
def _is_loopback(address: str) -> bool:
    if not _is_address(address):
        return False
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
