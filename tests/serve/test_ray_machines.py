"""Ray Serve on two machines: two network namespaces, each with a Ray node, a replica and a proxy."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watching import eventually

pytest.importorskip("deploy.ray_app", reason="needs ray[serve]")

ROOT = Path(__file__).parents[2]
HEAD = "10.77.0.1:6379"
# Posts the JSON of its input and prints the response's.
CLIENT = (
    "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], sys.stdin.buffer.read())).read().decode())"
)


def on(machine: str, own: Path, *command: object) -> list[str]:
    """A command for a machine, with a folder of its own where Ray has its sockets and logs."""
    mount = f'mkdir -p /tmp/ray && mount --bind {own} /tmp/ray && exec "$@"'
    return ["ip", "netns", "exec", machine, "unshare", "--mount", "sh", "-c", mount, "sh", *map(str, command)]


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def begun(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Tell whether a node has started. Ray gives up after 30 seconds, which a busy machine may need."""
    assert process.poll() is None, log.read_text()
    return b"Ray runtime started" in log.read_bytes()


def end(machine: str) -> None:
    """Kill all processes of a machine."""
    listed = subprocess.run(["ip", "netns", "pids", machine], check=True, capture_output=True, text=True)
    for number in map(int, listed.stdout.split()):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


def machines_of_replicas(machines: tuple[str, str]) -> list[str]:
    """The machine of each replica."""
    found = []
    for machine in machines:
        listed = subprocess.run(["ip", "netns", "pids", machine], check=True, capture_output=True, text=True)
        for number in listed.stdout.split():
            name = Path(f"/proc/{number}/cmdline")
            if name.is_file() and name.read_bytes().startswith(b"ray::ServeReplica:default:deep-image-zoo"):
                found.append(machine)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.xdist_group("serve")
def test_two_machines_classify_and_one_goes_on_alone(tiny: Any, tmp_path: Path, machines: tuple[str, str]) -> None:
    """A replica runs on each, each proxy reaches both, and the rest answers when a machine dies."""
    model = tiny(tmp_path / "models" / "model").write()
    pixels = model.images(1, seed=1)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ, "ZOO_SERVE_MODELS": str(tmp_path / "models"), "PYTHONPATH": str(ROOT), "RAY_ADDRESS": HEAD,
        "RAY_USAGE_STATS_ENABLED": "0",
        # For a machine that is busy with other things.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300", "RAY_worker_register_timeout_seconds": "300",
    }  # fmt: skip

    def classify(client: str, server: int) -> list[float]:
        url = f"http://10.77.0.{server}:8000/v2/models/model/infer"
        command = ["ip", "netns", "exec", client, sys.executable, "-c", CLIENT, url]
        message = json.dumps({"inputs": [tensor]})
        done = subprocess.run(command, input=message, capture_output=True, text=True, timeout=200, check=False)
        if done.returncode:
            return []
        return [float(value) for value in json.loads(done.stdout)["outputs"][0]["data"]]

    def right(client: str, server: int) -> bool:
        return np.array_equal(np.float32(classify(client, server)), model.logits(pixels)[0])

    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    node = (bin_folder / "ray", "start", "--num-cpus", 1, "--object-store-memory", 100_000_000, "--block")
    with ExitStack() as stack:
        for machine in machines:
            stack.callback(end, machine)
        for number, (machine, folder) in enumerate(zip(machines, folders, strict=True), 1):
            where = ("--head", "--port", 6379, "--include-dashboard", "false") if number == 1 else ("--address", HEAD)
            command = on(machine, folder, *node, *where, "--node-ip-address", f"10.77.0.{number}")
            log = tmp_path / f"node-{number}.log"
            process = stack.enter_context(running(command, environment, log))
            assert eventually(partial(begun, process, log), 300), log.read_text()
        start = on(machines[0], folders[0], bin_folder / "serve", "start", "--http-host", "0.0.0.0")
        done = subprocess.run(start, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        arguments = ("deploy.ray_app:app", "cpus=1", "min_replicas=2", "max_replicas=2")
        command = on(machines[0], folders[0], bin_folder / "serve", "run", *arguments)
        stack.enter_context(running(command, environment, tmp_path / "serve.log"))
        said = tmp_path / "serve.log"
        assert eventually(lambda: sorted(machines_of_replicas(machines)) == sorted(machines), 400), said.read_text()
        # Through each node's proxy, from both machines.
        assert eventually(lambda: right(machines[0], 1), 400), said.read_text()
        assert eventually(lambda: right(machines[0], 2), 200)
        assert right(machines[1], 1)
        assert right(machines[1], 2)
        end(machines[1])
        assert eventually(lambda: right(machines[0], 1), 200)
