"""The application for Ray Serve: its arguments, what a replica is made of, and two of them in a cluster."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from watching import eventually

ray_app = pytest.importorskip("deploy.ray_app", reason="needs ray[serve]")

from serve.settings import Settings  # noqa: E402

ROOT = Path(__file__).parents[2]


def deployment(**arguments: Any) -> Any:
    return ray_app.app(ray_app.Arguments(**arguments))._bound_deployment


def test_arguments_and_settings_reach_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_SERVE_MAX_QUEUE", "128")
    monkeypatch.setenv("ZOO_SERVE_TIMEOUT", "7")
    made = deployment(cpus=2, min_replicas=2, max_replicas=6)
    options = made.ray_actor_options
    assert options["num_cpus"] == 2
    variables = options["runtime_env"]["env_vars"]
    assert variables == {"ZOO_SERVE_MAX_QUEUE": "128", "ZOO_SERVE_TIMEOUT": "7"}
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 6)
    # More than the replica's queue holds must be able to reach it: it is the one that refuses.
    assert made.max_ongoing_requests > 128
    # A replica that is stopped has the time that its slowest request may take.
    assert made._deployment_config.graceful_shutdown_timeout_s >= 7


def test_a_mistake_is_told_before_replicas_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_SERVE_PRECISION", "int4")
    with pytest.raises(ValueError, match="precision is 'int4'; valid are"):
        deployment()
    monkeypatch.delenv("ZOO_SERVE_PRECISION")
    with pytest.raises(ValueError, match="cpus"):
        deployment(cpus=0)


@pytest.mark.parametrize("cores", [1.0, 3.0])
def test_a_replica_has_the_threads_of_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, cores: float) -> None:
    class Context:
        def get_assigned_resources(self) -> dict[str, float]:
            return {"CPU": cores}

    monkeypatch.setattr(ray_app, "get_runtime_context", Context)
    monkeypatch.setenv("ZOO_SERVE_MODELS", str(tmp_path))
    monkeypatch.setenv("ZOO_SERVE_GRPC_PORT", "8001")
    settings: Settings = ray_app.build().state.engine.settings
    assert (settings.threads, settings.app, settings.grpc_port) == (cores, False, 0)
    assert settings.models == tmp_path


def test_health_means_ready(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "model").write()

    class Context:
        def get_assigned_resources(self) -> dict[str, float]:
            return {"CPU": 1.0}

    monkeypatch.setattr(ray_app, "get_runtime_context", Context)
    monkeypatch.setenv("ZOO_SERVE_MODELS", str(tmp_path))

    class Stub:
        app = ray_app.build()

    check = ray_app.Replica.check_health
    engine = Stub.app.state.engine
    engine.start()
    asyncio.run(check(Stub()))  # waits until it has loaded
    engine.repository.unload("model")
    with pytest.raises(RuntimeError, match="no model is loaded"):
        asyncio.run(check(Stub()))
    engine.close()
    with pytest.raises(RuntimeError, match="shutting down"):
        asyncio.run(check(Stub()))


# `serve run deploy.ray_app:app cpus=1 min_replicas=2 max_replicas=2` on a port of its own.
CLUSTER = """
import sys, time, ray
from ray import serve
from deploy.ray_app import Arguments, app

ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(app(Arguments(cpus=1, min_replicas=2, max_replicas=2)))
print("ready", flush=True)
time.sleep(3600)
"""


def replicas() -> list[int]:
    """The processes of the replicas on this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica:default:deep-image-zoo"):
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_a_replica_that_is_killed_is_replaced_and_nothing_is_swapped(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model").write()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ, "ZOO_SERVE_MODELS": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT),
        # For a machine that is busy with other things.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "200", "RAY_worker_register_timeout_seconds": "300",
    }  # fmt: skip
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def ask(first: int) -> None:
        url = f"http://127.0.0.1:{port}/v2/models/model/infer"
        with httpx.Client(timeout=100, verify=False) as client:
            for seed in itertools.count(first, 100):
                if over.is_set():
                    return
                pixels = model.images(1, seed=seed)
                tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
                message = {"id": str(seed), "inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
                try:
                    response = client.post(url, json=message)
                except httpx.TransportError:
                    outcomes["connection"] += 1
                    continue
                if response.status_code >= 500:  # Ray's proxy, for a request that was with the killed replica
                    outcomes["refused"] += 1
                    continue
                answer = response.json()
                right = answer.get("id") == str(seed) and np.array_equal(
                    np.float32(answer["outputs"][0]["data"]), model.logits(pixels)[0]
                )
                outcomes["right" if right else f"wrong: {answer}"] += 1

    command = [sys.executable, "-c", CLUSTER, str(port)]
    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as cluster:
        try:
            assert cluster.stdout is not None
            assert "ready" in cluster.stdout.readline()
            before = replicas()
            assert len(before) == 2
            for client in clients:
                client.start()
            assert eventually(lambda: outcomes["right"] > 50, 200)
            os.kill(before[0], signal.SIGKILL)
            assert eventually(lambda: len(replicas()) == 2 and before[0] not in replicas(), 200)
            enough = outcomes["right"] + 50
            assert eventually(lambda: outcomes["right"] > enough, 200)
        finally:
            over.set()
            for client in clients:
                if client.is_alive():
                    client.join()
            cluster.terminate()
    assert outcomes.keys() <= {"right", "connection", "refused"}
    assert outcomes["connection"] + outcomes["refused"] <= len(clients)  # those that were with the killed one
