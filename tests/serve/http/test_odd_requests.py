"""Requests as no browser sends them, to the API, the documentation and the app."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

END = b"Host: localhost\r\nConnection: close\r\n\r\n"
CSS = b"/docs/files/swagger-ui.css"
LOGO = b"/static/img/logo.svg"
INDEX = b"POST /v2/repository/index HTTP/1.1\r\n"
LONG = b"a" * 5000


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    """All together leave the log as it was."""
    with running("--models", models[0].folder.parent, "--timeout", 3) as server:
        yield server
        _, errors = server.stop()
        assert len(errors.splitlines()) == 3, errors  # two models are ready, one is broken


def respond(server: Any, data: bytes) -> tuple[int, bytes]:
    """Send data; return status and body of the one response, whose form is that of all errors if it is one."""
    with server.connect() as connection:
        connection.sendall(data)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status >= 400 and not data.startswith(b"HEAD"):
        assert isinstance(json.loads(body)["error"], str)
        assert b"internal error" not in body
    return status, body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"OPTIONS * HTTP/1.1\r\n", 404),
        (b"GET //evil.example/ HTTP/1.1\r\n", 404),
        (b"GET http://localhost/v2 HTTP/1.1\r\n", 200),
        (b"GET /v2/../metrics HTTP/1.1\r\n", 404),
        (b"GET /%76%32 HTTP/1.1\r\n", 200),
        (b"GET /v2/models/%ff%00 HTTP/1.1\r\n", 404),
        (b"GET /%ff%00 HTTP/1.1\r\n", 404),
        (b"GET /?%ff=%fe HTTP/1.1\r\n", 200),
        (b"GET /v2 HTTP/1.1\r\nX: a\r\n b\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nX : a\r\n", 400),
        (b"TRACE / HTTP/1.1\r\n", 405),
        (b"TRACE /v2 HTTP/1.1\r\n", 405),
        (b"OPTIONS /gradio_api/run/models HTTP/1.1\r\n", 405),
        (b"HEAD / HTTP/1.1\r\n", 200),
        (b"HEAD /nothing HTTP/1.1\r\n", 404),
        # Ranges: the whole file is sent.
        (b"GET " + CSS + b" HTTP/1.1\r\nRange: bytes=0-3\r\n", 200),
        (b"GET " + CSS + b" HTTP/1.1\r\nRange: bytes=x\r\n", 200),
        (b"GET " + CSS + b" HTTP/1.1\r\nRange: bytes=999999999-\r\n", 200),
        (b"GET " + LOGO + b" HTTP/1.1\r\nRange: bytes=x\r\n", 200),
        (b"GET " + LOGO + b" HTTP/1.1\r\nRange: bytes=999999999-\r\n", 200),
        # Names that no disk can hold.
        (b"GET /docs/files/" + LONG + b" HTTP/1.1\r\n", 404),
        (b"GET /static/" + LONG + b" HTTP/1.1\r\n", 404),
        (b"GET /svelte/" + LONG + b" HTTP/1.1\r\n", 404),
        (b"GET /assets/" + LONG + b" HTTP/1.1\r\n", 404),
        (b"GET /gradio_api/file=" + LONG + b" HTTP/1.1\r\n", 403),
        (b"GET /monitoring HTTP/1.1\r\n", 403),
        (b"GET /gradio_api/file=/etc/passwd HTTP/1.1\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=x, ;;;\r\n", 200),
        (b"GET / HTTP/1.1\r\nCookie: \xff=\xfe; access-token=x\r\nAccept-Language: \xff\r\n", 200),
        (INDEX + b"Content-Length: 99999999999999999999\r\n", 400),
        (INDEX + b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        (b"POST /classify/a.cifar10 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n", 413),
    ],
)
def test_heads(server: Any, head: bytes, status: int) -> None:
    assert respond(server, head + END)[0] == status


def test_a_range_is_ignored(server: Any) -> None:
    whole = respond(server, b"GET " + LOGO + b" HTTP/1.1\r\n" + END)
    ranges = b", ".join(b"%d-%d" % (2 * number, 2 * number) for number in range(5000))
    assert respond(server, b"GET " + LOGO + b" HTTP/1.1\r\nRange: bytes=" + ranges + b"\r\n" + END) == whole


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Type: multipart/form-data; boundary=\xff", 400),
        (b"Content-Type: multipart/form-data", 400),
        (b"Content-Type: \xff", 200),
        (b"Content-Encoding: gzip", 400),
        (b"Content-Encoding: br", 415),
        (b"Expect: 100-continue\r\nContent-Type: application/json", 200),
        (b"Expect: other\r\nContent-Type: application/json; charset=utf-7", 200),
        (b"Transfer-Encoding: chunked", 400),  # beside a Content-Length
    ],
)
def test_bodies_of_calls(server: Any, headers: bytes, status: int) -> None:
    """Past Gradio and through it, which reads only what is called JSON."""
    body = b'{"data": []}'
    for route in [b"upload"] if b"form-data" in headers else [b"run/models", b"api/models"]:
        head = b"POST /gradio_api/%s HTTP/1.1\r\nContent-Length: %d\r\n%s\r\n" % (route, len(body), headers)
        expected = 422 if route == b"api/models" and b"\xff" in headers else status
        assert respond(server, head + END + body)[0] == expected, route
