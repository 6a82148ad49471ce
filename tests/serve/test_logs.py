"""The server's log."""

import json
from collections.abc import Callable
from typing import Any

from watching import get, post


def break_requests(server: Any) -> None:
    """Send requests that libraries would log: invalid HTTP, an offer of another protocol, a broken form."""
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    form = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n--y"
    for data in (b"hello\r\n\r\n", upgrade, b"POST /classify/a.cifar10 HTTP/1.1\r\nHost: x\r\n" + form):
        with server.connect() as connection:
            connection.sendall(data)
            assert connection.recv(2**16).startswith(b"HTTP/1.1 ")


def test_json_logs(models: list[Any], running: Any, encode: Callable[..., bytes]) -> None:
    data = encode(models[0].images(1)[0])
    arguments = ("--models", models[0].folder.parent, "--no-app", "--log-format", "json", "--access-log")
    with running(*arguments) as server:
        break_requests(server)
        post(f"{server.url}/classify/a.cifar10", content=data, headers={"x-request-id": "one"})
        get(f"{server.url}/nothing", headers={"x-request-id": "two"})
        _, errors = server.stop()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    requests = {line["request_id"]: line for line in lines if "request_id" in line}
    assert requests["one"]["status"] == 200
    assert requests["one"]["path"] == "/classify/a.cifar10"
    assert requests["one"]["milliseconds"] > 0
    assert requests["two"]["status"] == 404
    assert any("broken" in line["message"] for line in lines)


def test_requests_are_not_logged_by_default(models: list[Any], running: Any) -> None:
    with running("--models", models[1].folder.parent, "--no-app") as server:
        for _ in range(3):
            get(f"{server.url}/nothing")
        break_requests(server)
        _, errors = server.stop()
    assert len(errors.splitlines()) == 3, errors  # two models are ready, one is broken
