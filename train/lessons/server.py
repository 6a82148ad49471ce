"""The server as a process of its own, for a lesson that sends it requests."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from train.errors import UserError


class ServerError(UserError):
    """A server that does not start."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        address: such as "http://127.0.0.1:40123".
        process: to be ended by `stop`.
    """

    address: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """End the server, and wait until it has."""
        self.process.terminate()
        self.process.communicate()


def start(models: Path) -> Server:
    """Start `python -m serve` on a free port of this machine, without the app, and wait until its models are ready.

    Args:
        models: the folder of the models, whose ONNX files are built already.

    Raises:
        ServerError: it ends before it is ready; with what it said last.
    """
    command = [sys.executable, "-m", "serve", "--models", str(models), "--port", "0", "--build", "no"]
    # What it logs goes to the same pipe, which holds far more than the lines of a lesson.
    process = subprocess.Popen(
        command,
        env={**os.environ, "ZOO_SERVE_APP": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        if found := re.search(r"Serving .* on (http://\S+)", line):
            return Server(found[1], process)
        said = line.strip() or said
    process.communicate()
    raise ServerError(f"the server did not start: {said or 'it said nothing'}")
