"""ONNX files for models that have only weights: built by `python -m train.export`, in a process of its own.

The server itself never imports torch. It serves each model as soon as its files are there.
"""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from serve.default_models import PACKAGED_CARDS, PACKAGES, user_models
from serve.engine.models import FILES, find

log = logging.getLogger("serve")

# Modules of the extra `train` and of the plugin that the export imports.
NEEDED = ("torch", "timm", "accelerate", "onnx", "onnxscript")
INSTALL = "pip install 'deep-image-zoo[train]'"
COMMAND = (
    sys.executable,
    "-W",
    "ignore",
    "-m",
    "train.export",
    "--missing",
    "--jobs",
    str(min(2, os.cpu_count() or 1)),
)
# What it prints for each model: "ONNX 3/12 improved_vgg16.cifar10 41 s (...)". The lines about study files, which
# follow, are only logged: these files are opened when they are needed.
BUILT = re.compile(r"ONNX \d+/\d+ (.+) \d+ s\b")


def installed() -> bool:
    """Tell whether the packages that the export needs are installed."""
    return all(find_spec(name) for name in NEEDED)


def buildable(folder: Path) -> list[str]:
    """List the models whose ONNX files can be built in `folder`: those with weights."""
    source = PACKAGED_CARDS if folder == user_models() else folder
    return [name for name in find(source) if (source / name / "model.safetensors").is_file()]


def unbuilt(folder: Path) -> list[str]:
    """List the models that have weights and no ONNX files."""
    return [name for name in buildable(folder) if not any((folder / name / file).is_file() for file in FILES.values())]


class Builder:
    """A process that builds the ONNX files that are missing or out of date.

    Args:
        folder: of the models; `user_models()` also gets the cards of the installed package.
    """

    def __init__(self, folder: Path) -> None:
        # The export copies the packaged cards itself, if it is told no names.
        paths = [] if folder == user_models() else [str((folder / name).resolve()) for name in buildable(folder)]
        environment = {name: value for name, value in os.environ.items() if name != "ZOO_MODEL_CARDS"}
        # A session of its own: Ctrl-C in a terminal is for the server, which then stops all of its processes.
        self._process = subprocess.Popen(
            [*COMMAND, *paths],
            env=environment,
            cwd=PACKAGES,  # so that no other `train` is found first
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def built(self) -> Iterator[str]:
        """Log the process's lines, and yield the name of each model whose files are new. End with the process."""
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.info("%s", line.rstrip())
                if done := BUILT.match(line):
                    yield done[1]
        if process.returncode > 0:  # a negative status is a signal's: `stop`
            log.warning("not all ONNX files could be built")

    def stop(self) -> None:
        """End the process and those that it has started."""
        with suppress(AttributeError, OSError):
            os.killpg(self._process.pid, signal.SIGTERM)
