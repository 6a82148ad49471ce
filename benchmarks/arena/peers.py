"""The table of peers: how each is installed and started, and what its requests look like."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

from . import messages
from .messages import Maker

OURS = "python -m serve"
SERVERS = "benchmarks.arena.servers"
BATCH = 32
# How the lines of pip's output start that say why it failed, the clearest first.
REASON = ("ERROR: No matching distribution", "ERROR: Could not find", "ERROR: ")


@dataclass(frozen=True)
class Peer:
    """A row of the table of results.

    Attributes:
        start: arguments of Python, in which {port} and {grpc} are the ports, {models} is the folder of models, and
            {precision} the model's precision.
        one: makes a request with one image file.
        many: makes a request with 32 images, as pixels if the server takes them.
        needs: the packages of an environment of its own, pinned; empty for a peer that runs in this project's.
        module: what this project's environment must have.
        embeds: whether the server embeds the system's Python, whose standard library it then has to find.
        grpc: whether requests go to the port for gRPC.
    """

    start: tuple[str, ...]
    one: Maker
    many: Maker
    needs: tuple[str, ...] = ()
    module: str = ""
    embeds: bool = False
    grpc: bool = False


def script(name: str) -> tuple[str, ...]:
    return ("-m", f"{SERVERS}.{name}", "{port}", "{grpc}")


SERVE = ("-m", "serve", "--models", "{models}", "--port", "{port}", "--precision", "{precision}", "--device", "cpu")
TRITON = ("nvidia-pytriton==0.7.0", "numpy<2")
# Its workers ask for an event loop that newer ones of uvloop do not make.
MLSERVER = ("mlserver==1.7.1", "uvloop<0.22")


def peers(model: str) -> dict[str, Peer]:
    """List the peers by name, this project's server first.

    Args:
        model: the name under which this project's server has the model.
    """
    infer, files = f"/v2/models/{model}/infer", ("files", "pixels")
    return {
        OURS: Peer(SERVE, messages.raw(f"/classify/{model}"), messages.v2(infer, pixels=True)),
        f"{OURS}, gRPC": Peer(
            (*SERVE, "--grpc-port", "{grpc}"),
            messages.grpc(model),
            messages.grpc(model, pixels=True),
            grpc=True,
            module="grpc",
        ),
        "plain FastAPI": Peer(
            script("plain_fastapi"), messages.raw("/classify"), messages.raw("/classify", pixels=True)
        ),
        "LitServe": Peer(
            script("lit"),
            messages.form("/classify"),
            messages.form("/classify", pixels=True),
            needs=("litserve==0.2.19", "python-multipart==0.0.20"),
        ),
        "Ray Serve, @serve.batch": Peer(
            script("ray_batch"), messages.raw("/classify"), messages.raw("/classify", pixels=True), module="ray"
        ),
        "Ray Serve, deploy/ray_app.py": Peer(
            script("ray_ours"), messages.raw(f"/classify/{model}"), messages.v2(infer, pixels=True), module="ray"
        ),
        "Triton": Peer(
            script("triton"),
            messages.v2(f"/v2/models/{files[0]}/infer", shape=(1, 1)),
            messages.v2(f"/v2/models/{files[1]}/infer", pixels=True),
            needs=TRITON,
            embeds=True,
        ),
        "Triton, gRPC": Peer(
            script("triton"),
            messages.grpc(files[0], shape=(1, 1)),
            messages.grpc(files[1], pixels=True),
            needs=TRITON,
            embeds=True,
            grpc=True,
        ),
        "MLServer": Peer(
            script("ml"),
            messages.v2_json("/v2/models/classify/infer"),
            messages.v2_json("/v2/models/classify/infer", pixels=True),
            needs=MLSERVER,
        ),
        "MLServer, gRPC": Peer(
            script("ml"),
            messages.grpc("classify"),
            messages.grpc("classify", pixels=True),
            needs=MLSERVER,
            grpc=True,
        ),
        "BentoML": Peer(
            ("-m", "bentoml", "serve", f"{SERVERS}.bento:Classify", "--host", "127.0.0.1", "--port", "{port}"),
            messages.form("/classify", name="images"),
            messages.form("/classify", name="images", copies=BATCH),
            needs=("bentoml==1.4.40",),
        ),
    }


def python_of(peer: Peer, folder: Path) -> Path:
    """Return the Python of a peer. Peers with the same packages share an environment."""
    if not peer.needs:
        return Path(sys.executable)
    return folder / peer.needs[0].partition("==")[0] / "bin" / "python"


def installed(peer: Peer, folder: Path) -> bool:
    """Tell whether a peer's environment is there and was finished."""
    return not peer.needs or (python_of(peer, folder).parents[1] / "finished").exists()


def install(peer: Peer, folder: Path) -> str:
    """Make a peer's environment, with the ONNX Runtime of this one, unless it is there; return why that failed, or "".

    An environment that could not be finished is removed.
    """
    python = python_of(peer, folder)
    if installed(peer, folder):
        return ""
    base = shutil.which("python3", path=os.defpath) if peer.embeds else sys.executable
    if base is None:
        return "needs the system's Python, whose library it embeds"
    environment = python.parents[1]
    shutil.rmtree(environment, ignore_errors=True)  # one that was interrupted
    kernels = f"onnxruntime=={version(runtime())}"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    commands = (
        [*uv, "venv", "--python", base, str(environment)],
        [*uv, "pip", "install", "--python", str(python), *peer.needs, kernels, "pillow"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(environment, ignore_errors=True)
            return reason(done.stderr or done.stdout)
    (environment / "finished").touch()
    return ""


def runtime() -> str:
    """Name the package with this environment's ONNX Runtime."""
    return packages_distributions()["onnxruntime"][0]


def reason(output: str) -> str:
    """Choose the line of pip's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for start in REASON:
        for line in lines:
            if line.startswith(start):
                return line.removeprefix("ERROR: ")
    return lines[-1] if lines else "pip failed and printed nothing"
