"""Ray Serve on two machines: two network namespaces, each with a Ray node, a replica and a proxy."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from watching import eventually

pytest.importorskip("deploy.ray_app", reason="needs ray[serve]")

ROOT = Path(__file__).parents[2]
MODEL = "improved_resnet18.cifar10"
HEAD = "10.77.0.1:6379"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
# Posts its input to the URL and prints the response.
CLIENT = """
import sys, urllib.request as u
print(u.urlopen(u.Request(sys.argv[1], sys.stdin.buffer.read()), timeout=60).read().decode())
"""
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "RAY_ADDRESS": HEAD,
    "RAY_USAGE_STATS_ENABLED": "0",
    # One token for all. Left to itself, Ray 2.60 takes the one in the home folder at the head, and none elsewhere.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # Ray's own limits are for machines that do nothing else.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_worker_register_timeout_seconds": "300",
}


class Machine:
    """A network namespace with an address, and with a folder of its own where Ray has its sockets and logs."""

    def __init__(self, name: str, address: str, folder: Path, environment: dict[str, str]) -> None:
        self.address = address
        self._name = name
        self._folder = folder
        self._environment = environment
        folder.mkdir()

    def command(self, *words: object) -> list[str]:
        mount = f'mkdir -p /tmp/ray && mount --bind {self._folder} /tmp/ray && exec "$@"'
        return ["ip", "netns", "exec", self._name, "unshare", "--mount", "sh", "-c", mount, "sh", *map(str, words)]

    @contextmanager
    def running(self, *words: object) -> Iterator[Callable[[], str]]:
        """Run a command; yields a function that returns its output, and fails once the command has ended."""
        log = self._folder / f"{Path(str(words[0])).name}.log"
        with (
            log.open("wb") as file,
            subprocess.Popen(
                self.command(*words), cwd=ROOT, env=self._environment, stdout=file, stderr=file, start_new_session=True
            ) as process,
        ):

            def output() -> str:
                assert process.poll() is None, log.read_text()
                return log.read_text()

            try:
                yield output
            finally:
                process.kill()

    def classify(self, address: str, image: bytes) -> dict[str, Any]:
        """Classify an image by the proxy at an address; the response, or what failed."""
        url = f"http://{address}:8000/classify/{MODEL}"
        command = ["ip", "netns", "exec", self._name, sys.executable, "-c", CLIENT, url]
        done = subprocess.run(command, input=image, capture_output=True, timeout=100, check=False)
        if done.returncode:
            return {"failed": done.stderr.decode()[-500:]}
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def processes(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self._name], check=True, capture_output=True, text=True)
        return [int(number) for number in listed.stdout.split()]

    def replicas(self) -> int:
        """How many replicas run here."""
        count = 0
        for number in self.processes():
            with suppress(OSError):
                name = Path(f"/proc/{number}/cmdline").read_bytes()
                count += name.startswith(b"ray::ServeReplica:default:deep-image-zoo")
        return count

    def die(self) -> None:
        """Kill all processes."""
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.xdist_group("serve")
def test_two_machines_classify_and_one_goes_on_alone(tmp_path: Path, machines: tuple[str, str]) -> None:
    """The commands of docs/deployment.md: a replica and a proxy on each; what is left answers when a machine dies."""
    models = tmp_path / "models"
    models.mkdir()
    (models / MODEL).symlink_to(ROOT / "model_cards" / MODEL)
    environment = {**os.environ, **ENVIRONMENT, "ZOO_SERVE_MODELS": str(models), "ZOO_SERVE_PRECISION": "fp32"}
    image = (ROOT / "serve" / "examples" / "picture-cat.png").read_bytes()
    first, second = (
        Machine(name, address, tmp_path / address, environment)
        for name, address in zip(machines, ADDRESSES, strict=True)
    )
    ray, serve = (Path(sys.executable).parent / name for name in ("ray", "serve"))

    def right(client: Machine, address: str) -> bool:
        found = client.classify(address, image)
        said[client.address, address] = found
        return "failed" not in found and found["predictions"][0]["label"] == "cat"

    said: dict[tuple[str, str], dict[str, Any]] = {}
    with ExitStack() as stack:
        for machine in (first, second):
            stack.callback(machine.die)
        for machine, where in (
            (first, ("--head", "--port", 6379, "--include-dashboard", "false")),
            (second, ("--address", HEAD)),
        ):
            node = (ray, "start", "--block", "--num-cpus", 1, "--object-store-memory", 100_000_000)
            output = stack.enter_context(machine.running(*node, *where, "--node-ip-address", machine.address))
            assert eventually(partial(lambda text: "Ray runtime started" in text(), output), 300), output()
        start = first.command(serve, "start", "--http-host", "0.0.0.0")
        done = subprocess.run(
            start, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        # A replica needs a core, and each machine has one.
        output = stack.enter_context(
            first.running(serve, "run", "deploy.ray_app:app", "min_replicas=2", "max_replicas=2")
        )
        assert eventually(lambda: bool(output()) and (first.replicas(), second.replicas()) == (1, 1), 400), output()
        # Through the proxy of each, from both.
        for client in (first, second):
            for address in ADDRESSES:
                assert eventually(partial(right, client, address), 300), (said, output())
        assert len({json.dumps(answer) for answer in said.values()}) == 1
        second.die()
        for _ in range(10):
            assert eventually(partial(right, first, first.address), 200), (said, output())
        assert said[first.address, second.address] == said[first.address, first.address]
