"""The server's log."""

import json
from collections.abc import Callable
from pathlib import Path
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
    lines = [json.loads(line) for line in (server.line, *errors.splitlines())]
    assert lines[0]["message"].startswith("Serving 2 models on http://127.0.0.1:")
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


PRINTING = """
import sys, threading, warnings
from serve.__main__ import main
import serve.server

class Broken:
    def __del__(self):
        raise ValueError("in a destructor")

async def startup(self, sockets=None, real=serve.server.Server.startup):
    await real(self, sockets)
    warnings.warn("a library's warning")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    Broken()

serve.server.Server.startup = startup
main()
raise RuntimeError("at the end")
"""


def test_json_logs_hold_what_python_would_print(tmp_path: Path, running: Any) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    with running("--models", tmp_path, "--no-app", "--log-format", "json", program=("-c", PRINTING)) as server:
        assert server.line == ""
        status, errors = server.stop()
    lines = [json.loads(line) for line in errors.splitlines()]
    text = "\n".join(f"{line['message']} {line.get('exception')}" for line in lines)
    for words in ("a library's warning", "ZeroDivisionError", "in a destructor"):
        assert words in text
    assert lines[-1]["message"] == f"python -m serve: none of the models in {tmp_path} could be loaded"
    assert lines[-1]["level"] == "critical"
    assert status == 1


def test_the_start_line_is_plain_where_logs_are_text(models: list[Any], running: Any) -> None:
    with running("--models", models[0].folder.parent, "--no-app") as server:
        assert server.line == f"Serving 2 models on {server.url}"
