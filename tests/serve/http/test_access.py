"""Who may use the server: hosts, web pages of other origins, keys."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api import create_app
from serve.http.access import Access
from serve.http.forwarded import SENT_HOST
from serve.settings import Settings

MODEL = "/v2/repository/models/model"


async def send(settings: Settings, method: str, path: str, headers: dict[str, str], server: str) -> httpx.Response:
    app = create_app(settings)

    async def received_by(scope: Any, receive: Any, send: Any) -> None:
        scope["server"] = (server, 8000)
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(received_by)) as client:
        return await client.request(method, f"http://127.0.0.1:8000{path}", headers=headers)


def request(
    path: str, headers: dict[str, str], method: str = "POST", server: str = "127.0.0.1", **settings: Any
) -> httpx.Response:
    """Send a request to the application, which listens on address `server`."""
    return asyncio.run(send(Settings(models=Path("nowhere"), app=False, **settings), method, path, headers, server))


def test_models_are_not_loaded_or_unloaded_by_default() -> None:
    for change in ("load", "unload"):
        response = request(f"{MODEL}/{change}", {})
        assert response.status_code == 403
        assert "--model-control explicit" in response.json()["error"]
        assert request(f"{MODEL}/{change}", {}, model_control="explicit").status_code in (400, 404)


# Headers of a browser for a request from a page of another origin. Browsers send Sec-Fetch-Site to localhost and over
# TLS only.
FOREIGN: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:3000"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example"},
    {"origin": "http://127.0.0.1:3000"},
    {"origin": "null"},
]
OWN: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"},
    {"sec-fetch-site": "none"},
    {"origin": "http://127.0.0.1:8000"},
    {"origin": "https://zoo.example", "host": "zoo.example"},
    {"origin": "https://zoo.example:8443", "host": "zoo.example:8443"},
    # Proxies that leave the port out of the header Host, or add the usual one.
    {"origin": "http://zoo.example:8080", "host": "zoo.example"},
    {"origin": "https://zoo.example", "host": "zoo.example:443"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["/classify/model", "/v2/repository/index", f"{MODEL}/unload", "/gradio_api/upload"])
def test_a_page_of_another_origin_may_change_nothing(path: str, headers: dict[str, str]) -> None:
    response = request(path, headers, model_control="explicit")
    assert response.status_code == 403
    assert "--allow-origin" in response.json()["error"]


@pytest.mark.parametrize("headers", OWN)
def test_programs_and_own_pages_may(headers: dict[str, str]) -> None:
    assert request("/v2/repository/index", headers, host="0.0.0.0").status_code == 200


def test_a_page_of_another_origin_may_follow_a_link() -> None:
    assert request("/v2/health/live", {"sec-fetch-site": "cross-site"}, method="GET").status_code == 200


def test_the_app_cannot_be_read_by_other_pages() -> None:
    """Gradio would let pages of all origins read it, with the visitor's credentials."""
    headers = {"origin": "https://evil.example", "host": "zoo.example"}
    settings = Settings(models=Path("nowhere"), host="0.0.0.0")
    page = asyncio.run(send(settings, "GET", "/config", headers, "192.0.2.1"))
    assert page.status_code == 200
    preflight = asyncio.run(
        send(settings, "OPTIONS", "/gradio_api/queue/join", {**headers, "access-control-request-method": "POST"}, "::1")
    )
    assert preflight.status_code == 403
    for response in (page, preflight):
        assert not [name for name in response.headers if name.startswith("access-control-allow-")]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "zoo.localhost:8000", "upstream", "[::1]:8000", "192.0.2.1"]
)
def test_local_names_and_addresses_are_always_known(host: str) -> None:
    for allowed in ((), ("zoo.example",)):
        assert request("/v2", {"host": host}, method="GET", allowed_host=allowed).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "1.2.3.4.5"])
def test_this_machine_has_no_other_names(host: str) -> None:
    """A web page whose name means 127.0.0.1 to a visitor's browser (DNS rebinding)."""
    for headers in ({"host": host}, {"host": host, "x-forwarded-host": "localhost"}):
        response = request("/v2", headers, method="GET")
        assert response.status_code == 403
        assert f"--allowed-host {host.partition(':')[0]}" in response.json()["error"]


@pytest.mark.parametrize(
    ("settings", "server", "status"),
    [
        ({"host": "0.0.0.0"}, "127.0.0.1", 200),
        ({}, "10.1.2.3", 200),  # another ASGI server, which listens on all addresses
        ({"allowed_host": ("zoo.example",)}, "127.0.0.1", 200),
        ({"allowed_host": ("*.example",)}, "127.0.0.1", 200),
        ({"allowed_host": ("*",)}, "127.0.0.1", 200),
        ({"host": "0.0.0.0", "allowed_host": ("other.example",)}, "10.1.2.3", 403),
        ({"host": "::1"}, "::1", 403),
        ({"host": "localhost"}, "127.0.0.1", 403),
        ({"host": "127.1"}, "127.0.0.1", 403),
        ({"host": "0x7f000001"}, "127.0.0.1", 403),
        ({"host": "::ffff:127.0.0.1"}, "::ffff:127.0.0.1", 403),
        ({"host": "::"}, "::1", 200),
        ({"host": "no.such.host.invalid"}, "127.0.0.1", 200),
    ],
)
def test_names_of_the_server(settings: dict[str, Any], server: str, status: int) -> None:
    response = request("/v2", {"host": "Zoo.example.:8000"}, method="GET", server=server, **settings)
    assert response.status_code == status


def test_a_given_name_holds_for_what_proxies_forward_too() -> None:
    headers = {"host": "127.0.0.1:8000", "x-forwarded-host": "evil.example"}
    assert request("/v2", headers, method="GET", allowed_host=("zoo.example",)).status_code == 403
    assert request("/v2", headers, method="GET").status_code == 200


def test_pages_of_allowed_origins_may_use_the_api() -> None:
    allowed: dict[str, Any] = {"allow_origin": ("https://page.example",), "api_key": "key", "model_control": "explicit"}
    page = {"origin": "https://page.example", "sec-fetch-site": "cross-site"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-any"}
    for path in ("/classify/model", "/v2/models/model/infer", "/v2"):
        preflight = request(path, {**page, **asked}, method="OPTIONS", **allowed)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        other = request(path, {**page, **asked, "origin": "https://evil.example"}, method="OPTIONS", **allowed)
        assert other.status_code == 400
        assert "origin" in other.json()["error"]
        assert "access-control-allow-origin" not in other.headers
    keyed = {**page, "authorization": "Bearer key"}
    response = request("/v2/repository/index", keyed, **allowed)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://page.example"
    assert "Inference-Header-Content-Length" in response.headers["access-control-expose-headers"]
    # The page can read errors as well.
    refused = request("/classify/model", page, **allowed)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://page.example"
    # But it may not change anything, or use the app.
    for path in (f"{MODEL}/unload", "/gradio_api/upload"):
        closed = request(path, keyed, **allowed)
        assert closed.status_code == 403
        assert "access-control-allow-origin" not in closed.headers


def test_any_origin() -> None:
    response = request("/v2/repository/index", {"origin": "null"}, allow_origin=("*",))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert request(f"{MODEL}/load", {"origin": "null"}, allow_origin=("*",)).status_code == 403


def test_without_the_option_nothing_is_shared() -> None:
    response = request("/v2", {"origin": "https://page.example"}, method="GET")
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(("offered", "let_in"), [(b"Bearer secret", True), (b"Bearer other", False), (b"", False)])
def test_websockets_need_the_key_too(offered: bytes, let_in: bool) -> None:
    """This server accepts none, but other hosts may serve the application."""
    came, said = [], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        came.append(scope["type"])

    async def send(message: Any) -> None:
        said.append(message)

    receive: Any = None
    scope = {"type": "websocket", "path": "/", "headers": [(b"authorization", offered)], SENT_HOST: None}
    asyncio.run(Access(application, Settings(api_key="secret"))(scope, receive, send))
    assert came == ["websocket"] * let_in
    assert said == ([] if let_in else [{"type": "websocket.close", "code": 1008}])


def test_waiting_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.routes.v2.MAX_CHANGES", 0)
    response = request(f"{MODEL}/load", {}, model_control="explicit")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
