"""One peer, or the bare loop, from its start to its measurements."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from .app_calls import calls
from .clients import Measured, ask, load
from .messages import Message
from .peers import BATCH, OURS, Peer, python_of
from .processes import core_seconds, memory, started
from .table import Row, core_hours

ROOT = Path(__file__).resolve().parents[2]
# Requests of a batch in flight.
BATCHES = 4
# Seconds until a server must have started.
PATIENCE = 180
# So that frameworks report nothing to their makers, and that Ray waits on a busy machine until it has started, and runs
# with the priority of the others: by default it lowers that of its workers.
SILENT_AND_PATIENT = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{PATIENCE}",
    "RAY_worker_register_timeout_seconds": f"{PATIENCE}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


def free_ports() -> tuple[int, int]:
    """Return two ports on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class PeerError(RuntimeError):
    """A peer cannot be measured."""


@dataclass(frozen=True)
class Setting:
    """What all peers of a run share.

    Attributes:
        model: the ONNX file, in a folder with the model's name, in the folder that this project's server serves.
        image: the image file of all requests.
        precision: the model's, for this project's server.
        seconds: how long a measurement takes.
        connections: how many there are when there are many.
        folder: with the peers' environments and logs.
    """

    model: Path
    image: Path
    precision: str
    seconds: int
    connections: int
    folder: Path

    def environment(self) -> dict[str, str]:
        settings = {"SERVING_MODEL": str(self.model), "PYTHONPATH": str(ROOT)}
        settings |= {"ZOO_SERVE_MODELS": str(self.model.parents[1]), "ZOO_SERVE_PRECISION": self.precision}
        return {**os.environ, **settings, **SILENT_AND_PATIENT}

    def messages(self, peer: Peer) -> tuple[Message, Message]:
        """Return a peer's requests with one image and with a batch."""
        pixels = np.asarray(PIL.Image.open(self.image).convert("RGB"))[None]
        file = self.image.read_bytes()
        return peer.one(file, pixels), peer.many(file, np.repeat(pixels, BATCH, axis=0))


def bare_loop(setting: Setting) -> tuple[Row, int]:
    """Measure the loop without HTTP, and return the image's class too."""
    found = []
    for batch, what in ((1, "decode"), (BATCH, "decode"), (BATCH, "ready")):
        command = [sys.executable, "-m", "benchmarks.arena.servers.bare_loop", str(setting.image)]
        command += [str(batch), str(setting.seconds), what]
        done = subprocess.run(
            command, cwd=ROOT, env=setting.environment(), stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    one, many, ready = found
    row = {"one": one["rate"], "median": one["median"], "many": many["rate"], "batches": ready["rate"]}
    row |= {"hours": core_hours(one["cpu"], 1), "hours_batches": core_hours(ready["cpu"], 1)}
    return row, one["class"]


def first_response(port: int, message: Message, process: "subprocess.Popen[bytes]", until: float, log: Path) -> bytes:
    """Send a message until there is a response: a server starts, and may load one model after another.

    Raises:
        PeerError: the process has ended, or there is none at the time `until`, on the monotonic clock.
    """
    while True:
        try:
            return ask(port, message)
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise PeerError(f"did not answer ({error}); its log is {log}") from None
            time.sleep(0.05)


def measure(name: str, peer: Peer, setting: Setting, expected: int) -> Row:
    """Start a server, check its classes, and return its measurements.

    Raises:
        PeerError: it did not start, or returns another class than expected.
    """
    one, many = setting.messages(peer)
    http, grpc = free_ports()
    port = grpc if peer.grpc else http
    words = {"port": http, "grpc": grpc, "models": setting.model.parents[1], "precision": setting.precision}
    command = [str(python_of(peer, setting.folder)), *(word.format(**words) for word in peer.start)]
    log = setting.folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.log"
    with started(command, ROOT, setting.environment(), log) as process:
        began = time.monotonic()
        answer, batch = (first_response(port, message, process, began + PATIENCE, log) for message in (one, many))
        start = time.monotonic() - began
        try:
            found = [one.classes(answer), many.classes(batch)]
        except (ValueError, LookupError, StopIteration) as error:
            raise PeerError(f"its response is not understood ({error!r}); its log is {log}") from None
        if found != [[expected], [expected] * BATCH]:
            raise PeerError(f"returns classes {found}, the bare loop {expected}")

        def run(message: Message, response: bytes, connections: int, seconds: float) -> tuple[Measured, float]:
            before = core_seconds(process.pid)
            measured = load(port, message, connections, seconds, len(response))
            return measured, core_seconds(process.pid) - before

        run(one, answer, setting.connections, min(2, setting.seconds))  # warms up
        single, _ = run(one, answer, 1, setting.seconds)
        crowd, used = run(one, answer, setting.connections, setting.seconds)
        batches, used_batches = run(many, batch, BATCHES, setting.seconds)
        row = {
            "one": single.rate,
            "median": single.median,
            "p99_one": single.p99,
            "many": crowd.rate,
            "median_many": crowd.median,
            "p99": crowd.p99,
            "failed": single.failed + crowd.failed + batches.failed,
            "batches": BATCH * batches.rate,
            "hours": core_hours(used, crowd.rate * setting.seconds),
            "hours_batches": core_hours(used_batches, BATCH * batches.rate * setting.seconds),
            "start": start,
            "memory": memory(process.pid),
        }
        if name == OURS:
            row |= calls(port, setting.model.parent.name, setting.image.read_bytes(), expected, setting.seconds)
    return row
