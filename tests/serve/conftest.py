"""Tiny models with the ONNX contract and exact results.

All numbers are whole, so that a swapped result cannot pass for rounding.
"""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

# For watching.py and engines.py; at the end, so that `conftest` is that of tests/train.
sys.path.append(str(Path(__file__).parent))

ROOT = Path(__file__).parents[2]


def weights(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """float32 [H*W*C, 10] of whole numbers: sums of pixels times these are exact in any order."""
    return np.random.default_rng(seed).integers(-2, 3, (int(np.prod(shape)), 10)).astype(np.float32)


@dataclass
class Tiny:
    """A model on disk, and its expected results."""

    folder: Path
    shape: tuple[int, int, int] = (32, 32, 3)
    seed: int = 0
    labels: list[str] = field(default_factory=lambda: [f"class {index}" for index in range(10)])

    @property
    def name(self) -> str:
        return self.folder.name

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [n, 10] for uint8 [n, H, W, C], to the bit."""
        sums = images.reshape(len(images), -1).astype(np.float32) @ weights(self.shape, self.seed)
        return np.asarray(sums / np.float32(4096))

    def best(self, image: np.ndarray) -> int:
        return int(self.logits(image[None])[0].argmax())

    def write(
        self, precision: str = "fp32", *, cost: int = 0, fragile: bool = False, ballast: int = 0, **metadata: str
    ) -> "Tiny":
        """Write the file of `precision`.

        Args:
            precision: fp32 or int8.
            cost: Steps that make each run slower, 1 to 5 ms each on one core.
            fragile: A run fails if the first byte of an image is 255.
            ballast: Additional bytes of weights.
            metadata: Entries that replace or extend the file's metadata.
        """
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
            helper.make_node("Div", ["sums", "scale"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ]
        constants = {"weights": weights(self.shape, self.seed), "scale": np.float32(4096)}
        extra = []
        if cost:
            constants |= {"zero": np.float32(0), "square": np.eye(512, dtype=np.float32)}
            extra += [
                helper.make_node("ReduceSum", ["float"], ["total"], keepdims=0),
                helper.make_node("Mul", ["total", "zero"], ["nothing"]),
                helper.make_node("Add", ["square", "nothing"], ["step0"]),
                *(helper.make_node("MatMul", [f"step{i}", "step0"], [f"step{i + 1}"]) for i in range(cost)),
                helper.make_node("ReduceSum", [f"step{cost}"], ["work"], keepdims=0),
                helper.make_node("Mul", ["work", "zero"], ["no_work"]),
                helper.make_node("Add", ["sums", "no_work"], ["late_sums"]),
            ]
            nodes[3].input[0] = "late_sums"
        if fragile:
            constants |= {"table": np.zeros(255, np.float32), "zero_index": np.array([0], np.int64)}
            extra += [
                helper.make_node("Gather", ["flat", "zero_index"], ["first"], axis=1),
                helper.make_node("Cast", ["first"], ["first_index"], to=TensorProto.INT64),
                helper.make_node("Gather", ["table", "first_index"], ["looked_up"]),
                helper.make_node("Add", ["sums", "looked_up"], ["checked_sums"]),
            ]
            nodes[3].input[0] = "checked_sums"
        if ballast:
            constants |= {"ballast": np.ones(ballast // 4, np.float32), "index": np.array([0])}
            extra += [
                helper.make_node("Cast", ["flat"], ["indices"], to=TensorProto.INT64),
                helper.make_node("Gather", ["indices", "index"], ["place"], axis=1),
                helper.make_node("Gather", ["ballast", "place"], ["one"]),
                helper.make_node("Mul", ["sums", "one"], ["heavy_sums"]),
            ]
            nodes[3].input[0] = "heavy_sums"
        tensor = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes[:3] + extra + nodes[3:],
            self.name,
            [tensor("image", TensorProto.UINT8, ["batch", *self.shape])],
            [tensor(name, TensorProto.FLOAT, ["batch", 10]) for name in ("logits", "probabilities")],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        usual = {"model": self.name, "tag": "test", "labels": json.dumps(self.labels), "parameters": "30720"}
        helper.set_model_props(model, {**usual, "precision": precision, "safetensors_sha256": "0" * 64, **metadata})
        self.folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, self.folder / {"fp32": "model.onnx", "int8": "model.int8.onnx"}[precision])
        return self

    def images(self, count: int, seed: int = 0) -> np.ndarray:
        """uint8 [count, H, W, C], all different."""
        return np.random.default_rng(seed).integers(0, 255, (count, *self.shape), dtype=np.uint8)


class Running:
    """`python -m serve` in its own process."""

    def __init__(
        self,
        *arguments: object,
        environment: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "serve"),
        wrapper: tuple[str, ...] = (),
    ) -> None:
        command = [*wrapper, sys.executable, *program, "--port", "0", "--linger", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        message = json.loads(self.line)["message"] if self.line.startswith("{") else self.line
        self.url = message.rpartition(" ")[2]

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait for the end, and return the exit status and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def connect(self) -> socket.socket:
        """Open a new connection."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def wake_ups(self) -> int:
        """How many times its threads have stopped working so far because they had nothing to do."""
        statuses = Path(f"/proc/{self.process.pid}/task").glob("*/status")
        return sum(int(re.findall(r"\nvoluntary_ctxt_switches:\s+(\d+)", one.read_text())[0]) for one in statuses)


# Tests with these fixtures start processes: servers, which can use all cores, or the one browser that all of them
# share. Tests of a kind run one after another. Files that start processes without a fixture carry the mark.
STARTS_PROCESSES = {"running": "serve", "browser": "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start processes into a serial group."""
    for item in items:
        kinds = [kind for fixture, kind in STARTS_PROCESSES.items() if fixture in getattr(item, "fixturenames", ())]
        if item.path.is_relative_to(Path(__file__).parent) and kinds:
            item.add_marker(pytest.mark.xdist_group(kinds[-1]))


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    """Class of models: `tiny(folder / "name", shape=(28, 28, 1), seed=1).write()`."""
    return Tiny


@pytest.fixture(scope="module")
def models(tiny: type[Tiny], tmp_path_factory: pytest.TempPathFactory) -> list[Tiny]:
    """A model of each shape, in a folder with a broken one."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "broken").mkdir()
    (folder / "broken" / "model.onnx").write_bytes(b"no model")
    return [tiny(folder / "a.cifar10").write(), tiny(folder / "b.mnist", shape=(28, 28, 1), seed=1).write()]


@pytest.fixture
def two(tiny: type[Tiny], tmp_path: Path) -> list[Tiny]:
    """A model of each shape."""
    return [tiny(tmp_path / "a").write(), tiny(tmp_path / "b", shape=(28, 28, 1), seed=1).write()]


@pytest.fixture(scope="session")
def running() -> type[Running]:
    """Class of server processes: `with Running("--models", folder) as server`."""
    return Running


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encoder of pixels, uint8 [H, W, C], or a Pillow image to a file's bytes: `encode(pixels)`."""

    def encode(source: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
        stream = io.BytesIO()
        image = source if isinstance(source, Image.Image) else Image.fromarray(source.squeeze())
        image.save(stream, kind, **options)
        return stream.getvalue()

    return encode
