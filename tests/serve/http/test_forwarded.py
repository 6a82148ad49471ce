"""What proxies say about requests."""

import asyncio
from typing import Any

import pytest

from serve.http.forwarded import Forwarded
from serve.settings import Settings


def seen(
    path: str, client: str = "127.0.0.1", headers: dict[str, str] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return the scope of a request as the application has it, its headers as a dictionary."""
    scopes = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    given = [
        (name.encode(), part.encode())
        for name, value in {"host": "upstream:8000", **(headers or {})}.items()
        for part in value.split("|")  # a header that is sent several times
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "headers": given,
        "client": (client, 1),
        "root_path": "",
    }
    nothing: Any = None
    asyncio.run(Forwarded(application, Settings(**settings))(scope, nothing, nothing))
    return {**scopes[0], "headers": {name.decode(): value.decode() for name, value in scopes[0]["headers"]}}


SAID = {
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "zoo.example:8443, inner",
    "x-forwarded-prefix": "/zoo/",
}


def test_a_trusted_proxy_says_where_a_request_comes_from() -> None:
    scope = seen("/v2", headers=SAID)
    assert scope["client"][0] == "203.0.113.7"
    assert scope["scheme"] == "https"
    assert scope["headers"]["host"] == "zoo.example:8443"
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/zoo", "/zoo/v2", b"/zoo/v2")


def test_nobody_else_does() -> None:
    """Gradio would believe some of these headers, so they do not reach it."""
    scope = seen("/v2", client="192.0.2.9", headers={**SAID, "x-gradio-server": "http://evil.example"})
    assert scope["client"][0] == "192.0.2.9"
    assert scope["scheme"] == "http"
    assert (scope["root_path"], scope["path"]) == ("", "/v2")
    assert scope["headers"] == {"host": "upstream:8000", "x-forwarded-for": "203.0.113.7"}
    assert seen("/v2", client="192.0.2.9", headers=SAID, forwarded_allow_ips=("192.0.2.0/24",))["scheme"] == "https"
    assert seen("/v2", headers=SAID, forwarded_allow_ips=("192.0.2.0/24",))["scheme"] == "http"
    assert seen("/v2", client="192.0.2.9", headers=SAID, forwarded_allow_ips=("*",))["root_path"] == "/zoo"


@pytest.mark.parametrize(
    ("sent", "path"),
    [("/v2/health/live", "/zoo/v2/health/live"), ("/zoo/v2", "/zoo/v2"), ("/zoo", "/zoo"), ("/zoos", "/zoo/zoos")],
)
def test_a_prefix_may_be_kept_or_removed(sent: str, path: str) -> None:
    scope = seen(sent, root_path="/zoo")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/zoo", path, path.encode())


def test_what_is_no_host_or_prefix_is_ignored() -> None:
    said = {"x-forwarded-host": "a b", "x-forwarded-prefix": '/"><script>'}
    scope = seen("/v2", headers=said, root_path="/zoo")
    assert scope["headers"]["host"] == "upstream:8000"
    assert scope["root_path"] == "/zoo"


@pytest.mark.parametrize(
    ("said", "prefix"),
    [
        ("/outer, /inner", "/outer/inner"),
        ("/outer/|/inner/", "/outer/inner"),
        ("/", ""),
        ("/,/zoo", "/zoo"),
        ("/outer, inner", "/known"),
        ("/outer,", "/known"),
        ("//evil.example", "/known"),
        ("/a%20b", "/known"),
        ("", "/known"),
    ],
)
def test_several_proxies_each_have_a_prefix(said: str, prefix: str) -> None:
    headers = {
        "x-forwarded-prefix": said,
        "x-forwarded-proto": "https, http",
        "x-forwarded-host": "a.example|b.example",
    }
    scope = seen("/v2", headers=headers, root_path="/known")
    assert (scope["root_path"], scope["path"]) == (prefix, f"{prefix}/v2")
    assert (scope["scheme"], scope["headers"]["host"]) == ("https", "a.example")
