"""The start and the end of a server with gRPC."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from calling import Stub, message, scores
from grpc_health.v1 import health_pb2, health_pb2_grpc
from watching import eventually

pytestmark = pytest.mark.xdist_group("serve")

ROOT = Path(__file__).parents[3]
# Ends once the application exists, and prints what is loaded.
IMPORTS = """
import sys
import serve.server
from serve.__main__ import main

def run(self, sockets=None):
    print(sorted(set(name.partition(".")[0] for name in sys.modules) & {"grpc", "grpc_health", "tritonclient"}))
    raise SystemExit

serve.server.Server.run = run
main()
"""
# As if a package of the extra were missing.
WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None
from serve.__main__ import main
main()
"""


def start(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_without_the_port_nothing_of_grpc_is_loaded(tiny: Any, tmp_path: Path, port: int) -> None:
    """Nor by the app, as test_start.py shows."""
    tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--port", 0, "--no-app")
    assert start(IMPORTS, *arguments).stdout == "[]\n"
    assert "grpc" in start(IMPORTS, *arguments, "--grpc-port", port).stdout


@pytest.mark.parametrize("missing", ["grpc", "grpc_health.v1", "tritonclient.grpc"])
def test_a_missing_package_is_one_line(tiny: Any, tmp_path: Path, port: int, missing: str) -> None:
    tiny(tmp_path / "model").write()
    ended = start(WITHOUT, missing, "--models", tmp_path, "--port", 0, "--grpc-port", port)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "pip install 'deep-image-zoo[grpc]'" in ended.stderr


def test_a_port_that_is_taken_is_one_line(tiny: Any, tmp_path: Path, port: int) -> None:
    tiny(tmp_path / "model").write()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ended = start(
            "from serve.__main__ import main; main()",
            "--models",
            tmp_path,
            "--port",
            0,
            "--no-app",
            "--grpc-port",
            port,
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        f"python -m serve: cannot listen on 127.0.0.1:{port} for gRPC; choose another with --grpc-port\n"
    )


def test_sigterm_loses_no_call(tiny: Any, tmp_path: Path, running: Any, port: int) -> None:
    """Calls that were accepted are answered; health says so before; streams end."""
    model = tiny(tmp_path / "model").write(cost=40)
    arguments = ("--models", tmp_path, "--no-app", "--grpc-port", port, "--threads", 1, "--timeout", 100)
    pixels = model.images(1)
    with (
        running(*arguments, "--linger", 1) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stream = Stub(channel).ModelStreamInfer(iter_forever(message("model", pixels)))
        assert not next(stream).error_message
        calls = [Stub(channel).ModelInfer.future(message("model", pixels)) for _ in range(12)]
        assert eventually(lambda: any(call.done() for call in calls))
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # While it lingers, it still serves.
        np.testing.assert_array_equal(scores(Stub(channel).ModelInfer(message("model", pixels))), model.logits(pixels))
        for call in calls:
            np.testing.assert_array_equal(scores(call.result()), model.logits(pixels))
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        status, errors = server.process.wait(60), server.process.stderr.read()
    assert status == 0
    assert [line for line in errors.splitlines() if not line.startswith("INFO: ")] == []


def iter_forever(first: Any) -> Any:
    yield first
    threading.Event().wait()


def test_a_run_that_hangs_does_not_keep_the_process(tiny: Any, tmp_path: Path, running: Any, port: int) -> None:
    hang = """
import time, serve.engine.batching, serve.engine.models, serve.server
from serve.__main__ import main

def run(self, session, images, real=serve.engine.models.Model._run):
    return time.sleep(1e6) if images.any() else real(self, session, images)

serve.engine.batching.BRIEF = 0
serve.engine.models.Model._run = run
serve.server.LAST_RESORT = 3
main()
"""
    model = tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--grpc-port", port, "--shutdown-timeout", 0, "--timeout", 1000)
    with running(*arguments, program=("-c", hang)) as server, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [Stub(channel).ModelInfer.future(message("model", model.images(1))) for _ in range(5)]
        assert eventually(lambda: Stub(channel).ServerLive(service().ServerLiveRequest()).live)
        status, _ = server.stop()
        for call in calls:
            assert call.exception().code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert status in (0, 1)


def service() -> Any:
    from tritonclient.grpc import service_pb2

    return service_pb2
