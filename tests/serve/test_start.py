"""The start: flags and environment, broken folders of models, and other ASGI servers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from watching import eventually, get

from serve.__main__ import bind, settings
from serve.settings import Settings

pytestmark = pytest.mark.xdist_group("serve")

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_setting() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in Settings.__dataclass_fields__:
        assert f"ZOO_SERVE_{name.upper()}" in done.stdout
        assert name == "api_key" or "--" + name.replace("_", "-") in done.stdout
    assert "--api-key" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "nowhere"), "nowhere is not a folder"),
        (("--models", "serve"), "serve holds no models; build one with: python train/export.py serve/NAME"),
        (("--device", "tpu"), "invalid choice: 'tpu'"),
        (("--max-batch", "0"), "max_batch is 0; it must be at least 1"),
        (("--models", "serve", "--host", "256.1.1.1"), "cannot listen on 256.1.1.1:8000"),
        (("--models", "serve", "--host", "a..b"), "cannot listen on a..b:8000: 'a..b' is not a host name"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "port is 70000; it must be at least 0, and at most 65535"),
        (("--timeout", "nan"), "timeout is nan"),
        (("--max-delay", "1e10"), "max_delay is 10000000000.0; it must be at least 0, and at most 2147483648"),
        (("--max-images", "300"), "more than the 256 of max_queue"),
        (("--keep-alive", "0"), "keep_alive is 0; it must be at least 1"),
        (("--model-control", "all"), "invalid choice: 'all'"),
        (("--root-path", "zoo"), "root_path is 'zoo'; it must be a path such as /zoo"),
        (("--root-path", "/a b"), "root_path is '/a b'"),
        (("--allowed-host", "a.example", "http://b.example"), "allowed_host is 'http://b.example'; valid are names"),
        (("--allowed-host", "a.example:80"), "allowed_host is 'a.example:80'"),
        (("--allow-origin", "https://a.example/"), "allow_origin is 'https://a.example/'; valid are origins without a"),
        (("--allow-origin", "a.example"), "allow_origin is 'a.example'"),
        (("--forwarded-allow-ips", "proxy"), "forwarded_allow_ips is 'proxy'; valid are IP addresses, networks"),
    ],
)
def test_wrong_settings_get_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As test_wrong_arguments_get_one_line, without a process of their own."""
    with pytest.raises(SystemExit) as ended:
        settings(list(arguments))
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_taken_port_is_one_line(tiny: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "model").write()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("--models", tmp_path, "--port", port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port" in done.stderr


def test_only_one_of_two_processes_gets_the_port() -> None:
    """The port is taken before the server accepts anything."""
    with bind(Settings(port=0)) as taken, pytest.raises(SystemExit) as ended:
        bind(Settings(port=taken.getsockname()[1]))
    assert ended.value.code == 1


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_here_is_one_line(tiny: Any, tmp_path: Path, host: str) -> None:
    tiny(tmp_path / "model").write()
    done = command("--models", tmp_path, "--host", host)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on {host}:8000: " in done.stderr
    assert done.stderr.endswith("; choose another with --host\n")


def test_broken_folders_do_not_affect_the_others(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "good").write()
    tiny(tmp_path / "mislabelled", labels=["only one"]).write()
    (tmp_path / os.fsdecode(b"no text \xff")).symlink_to(tmp_path / "good")
    for name, content in (("garbage", b"no model"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(content)
    (tmp_path / "unbuilt").mkdir()
    (tmp_path / "unbuilt" / "model.safetensors").touch()
    (tmp_path / "no model at all").mkdir()
    with running("--models", tmp_path, "--no-app") as server:
        assert server.line.startswith("Serving 1 model on ")
        assert get(f"{server.url}/v2/health/ready").status_code == 200
        status, errors = server.stop()
    assert status == 0
    assert f"build it with: python train/export.py {tmp_path / 'unbuilt'}" in errors
    for name in ("garbage", "empty", "mislabelled"):
        assert name in errors
    assert "no model at all" not in errors
    assert "Traceback" not in errors


def test_an_unreadable_folder_does_not_affect_the_others(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine import models
    from serve.engine.batching import Engine

    for name in ("good", "locked"):
        tiny(tmp_path / name).write()
    (tmp_path / "a file").touch()
    (tmp_path / "a link to nothing").symlink_to("nothing")

    def deny(real: Callable[..., Any]) -> Callable[..., Any]:
        # Not by permissions, which do not apply to root.
        def denied(path: Path) -> Any:
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return denied

    monkeypatch.setattr(os, "listdir", deny(os.listdir))
    monkeypatch.setattr(Path, "is_file", deny(Path.is_file))
    with Engine(Settings(models=tmp_path)) as engine:
        assert list(engine.models()) == ["good"]
        states = {entry.name: entry for entry in engine.repository.index()}
        assert list(states) == ["good", "locked"]
        assert states["locked"].state == "UNAVAILABLE"
        assert "Permission denied" in states["locked"].reason
    assert models.find(tmp_path / "nowhere") == models.find(tmp_path / "locked") == []


def test_without_any_model_it_ends(tmp_path: Path, running: Any) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    done = command("--models", tmp_path, "--port", 0, "--no-app")
    assert done.returncode == 1
    assert f"none of the models in {tmp_path} could be loaded" in done.stderr
    assert "does not load" in done.stderr
    assert done.stdout == ""


def test_nothing_of_training_or_grpc_is_imported(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model").write()
    program = f"""
import sys, asyncio, numpy as np
from pathlib import Path
from serve.api import create_app
from serve.settings import Settings
app = create_app(Settings(models=Path({str(tmp_path)!r})))
with app.state.engine as engine:
    asyncio.run(engine.infer({model.name!r}, np.zeros((1, 32, 32, 3), np.uint8)))
training = {{"torch", "timm", "zoo", "train", "torchvision", "onnx"}}
print(sorted((training | {{"grpc", "grpc_health", "tritonclient"}}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


@contextmanager
def hosted(folder: Path, *arguments: str, **settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The application in uvicorn: its address and its process."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "serve.api:create_app", "--port", "0", *arguments]
    environment = {**os.environ, "ZOO_SERVE_MODELS": str(folder), **settings}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "running on" in line)
            url = line.split("running on ")[1].split()[0]
            assert eventually(lambda: get(f"{url}/v2/health/ready").status_code == 200)
            yield url, process
        finally:
            process.kill()


@pytest.mark.parametrize("prefix", ["", "/zoo"])
def test_another_server_can_host_the_application(tiny: Any, tmp_path: Path, prefix: str) -> None:
    """Also behind a proxy that removes a prefix from the path."""
    tiny(tmp_path / "model").write()
    arguments = ("--root-path", prefix) if prefix else ()
    with hosted(tmp_path, *arguments, ZOO_SERVE_APP="false", ZOO_SERVE_API_KEY="key") as (url, process):
        assert get(f"{url}/v2/models/model").status_code == 401
        unknown = get(f"{url}/v2/models/nope", headers={"x-api-key": "key"})
        assert unknown.status_code == 404
        assert "unknown model 'nope'" in unknown.json()["error"]
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert "Application shutdown complete" in errors
    assert "Finished server process" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_another_server_ends_although_a_page_is_open(tiny: Any, tmp_path: Path, number: int) -> None:
    tiny(tmp_path / "model").write()
    with hosted(tmp_path) as (url, process):
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/page", timeout=60) as page:
            parts = page.iter_bytes()
            assert next(parts)
            process.send_signal(number)
            for _ in parts:  # until the response ends, in good order
                pass
        _, errors = process.communicate(timeout=60)
    assert "Application shutdown complete" in errors
    assert "Traceback" not in errors
