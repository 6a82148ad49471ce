"""What the tests of training share: samples, tiny networks, their cards, and `train/fit.py` as a process of its own."""

import atexit
import csv
import functools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from accelerate.state import AcceleratorState, GradientState
from filelock import FileLock
from PIL import Image
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from train import fit
from train.cards import checks, evaluation, publishing
from train.data import loading
from train.data.preprocess import Preprocess
from train.data.reference import DataError
from train.onnx_export import build, metadata
from train.paper import paper
from train.training import models
from train.training.results import plots
from zoo.googlenet import GoogLeNet, Inception
from zoo.pretrained import _ZerosForDraws

sys.path.insert(0, str(Path(__file__).parent))
import tiny_networks

# The environment is for the processes that are started here; this one may have imported the library already.
CACHE = Path(tempfile.mkdtemp(prefix="zoo-tests-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = str(CACHE)
datasets.config.HF_DATASETS_CACHE = CACHE
# No test asks the network.
os.environ["HF_HUB_OFFLINE"] = "1"
huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True

# The server that is forked for processes of the tests; it is started at the first of them.
multiprocessing.set_forkserver_preload(["train.fit", "train.data.tables"])

SAMPLES = models.REPOSITORY / "train" / "samples"
DATASETS = ("mnist", "cifar10")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers on a busy machine; and bit for bit only with as many threads as the processes that are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """PyTorch's exporter reads the source of 500 operators for each graph: half of what a tiny network's takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate decides on device and precision once in a process; here every test is a process of its own."""
    for name in ("ZOO_DATA_DIR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_accelerate()
    yield
    reset_accelerate()


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture(scope="session")
def few_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 100 images of each dataset to train on and 64 to test, for networks that are not tiny."""
    folder = tmp_path_factory.mktemp("few")
    for file in SAMPLES.rglob("*.parquet"):
        copy = folder / file.relative_to(SAMPLES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(file)[: 100 if file.name.startswith("train") else 64], copy)
    return folder


@pytest.fixture(scope="session")
def mnist() -> loading.Dataset:
    """The shipped MNIST images: 1,667 to train on, 333 to validate, 1,000 to test."""
    return loading.load("mnist", SAMPLES)


@pytest.fixture(scope="session")
def cifar10() -> loading.Dataset:
    return loading.load("cifar10", SAMPLES)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `train/fit.py` in this process; returns exit status, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        reset_accelerate()
        capsys.readouterr()
        status = fit.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def keys(split: loading.Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def message(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def one_line(errors: str) -> str:
    (line,) = errors.strip().splitlines()
    assert line.startswith("fit.py: ")
    return line


@dataclass
class Child:
    """`train/fit.py` in a process of its own."""

    process: Any
    output: Path

    def wait(self, seconds: float = 300) -> int:
        """The exit status; minus the number of the signal that ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"still running after {seconds} s:\n{self.text()}")
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Until the condition holds or the process has ended."""
        end = time.monotonic() + seconds
        while self.process.exitcode is None and not condition():
            assert time.monotonic() < end, self.text()
            time.sleep(0.002)

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Child]]:
    """Starts `train/fit.py`. Importing it takes seconds: that happens once, in a server that is forked for each run."""
    context = multiprocessing.get_context("forkserver")
    children = []

    def call(*arguments: object, before: tuple[Any, int] | None = None, **environment: object) -> Child:
        output = tmp_path_factory.mktemp("output") / "output.txt"
        variables = {"ACCELERATE_USE_CPU": "true", **{name: str(value) for name, value in environment.items()}}
        process = context.Process(
            target=tiny_networks.command, args=([str(a) for a in arguments], str(output), variables, before)
        )
        process.start()
        children.append(process)
        return Child(process, output)

    yield call
    for child in children:
        child.kill()
        child.join()


# What differs from run to run; the commit, because somebody may be at work in the checkout.
TIMES = {"seconds", "images_per_second", "train_seconds", "host_memory_bytes", "git_commit", "resumed_at_commits"}


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]], dict[str, Any]]:
    """A finished run's weights, logs and metrics, without what depends on the clock."""
    with (folder / "log.csv").open() as file:
        log = [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics = {name: value for name, value in metrics.items() if name not in TIMES}
    files = ("model.safetensors", "model.best.safetensors", "steps.csv")
    return b"".join((folder / name).read_bytes() for name in files), log, metrics


@pytest.fixture(scope="session", name="outcome")
def _outcome() -> Callable[[Path], tuple[bytes, list[dict[str, str]], dict[str, Any]]]:
    return outcome


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is filled once for all files and all processes of a run of the tests; they take copies of it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, complete = shared / name, shared / f"{name}.complete"
    with FileLock(shared / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of another process, which failed
            folder.mkdir()
            reset_accelerate()
            make(folder)
            reset_accelerate()
            complete.touch()
    return folder


@pytest.fixture(scope="session", params=DATASETS)
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def train(folder: Path) -> None:
        arguments = ("--model", "tiny_net", "--dataset", request.param, "--data-dir", SAMPLES, "--epochs", 2)
        more = ("--batch-size", 32, "--learning-rate", 0.05, "--output-dir", folder / "run")
        assert fit.main([str(argument) for argument in (*arguments, *more)]) == 0

    made = made_once(tmp_path_factory, f"run-{request.param}", train)
    return Path(shutil.copytree(made / "run", tmp_path_factory.mktemp("publish") / f"run-{request.param}"))


@pytest.fixture(scope="session")
def card(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = json.loads((run_folder / "args.json").read_text())["dataset"]
    name = f"tiny_net.{dataset}"
    made = made_once(
        tmp_path_factory,
        f"card-{dataset}",
        lambda folder: publishing.publish(run_folder, folder / name, SAMPLES, False, paper.accuracy),
    )
    return Path(shutil.copytree(made / name, run_folder.parent / name))


@pytest.fixture
def twin(card: Path, tmp_path: Path) -> Path:
    """A copy of the card."""
    return Path(shutil.copytree(card, tmp_path / card.name))


@pytest.fixture
def dataset(card: Path) -> loading.Dataset:
    return loading.load(card.name.partition(".")[2], SAMPLES)


@pytest.fixture(scope="session")
def own_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network for one's own pictures, of two classes, started from another run's weights; to be left unchanged."""
    return made_once(tmp_path_factory, "own", own_pictures_published) / "tiny_net.my insects"


def own_pictures_published(folder: Path) -> None:
    pictures = folder / "my insects"
    generator = np.random.default_rng(0)
    for channel, label in enumerate(("bee", "wasp")):
        (pictures / label).mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 90, (40, 50, 3), dtype=np.uint8)
            pixels[:, :, channel] += 150
            Image.fromarray(pixels).save(pictures / label / f"{i}.png")
    for run, arguments in (
        ("first", ("--dataset", "cifar10", "--data-dir", SAMPLES)),
        ("second", ("--dataset", pictures, "--pretrained", folder / "first")),
    ):
        reset_accelerate()
        more = ("--model", "tiny_net", "--epochs", 1, "--batch-size", 16, "--output-dir", folder / run)
        assert fit.main([str(argument) for argument in (*arguments, *more)]) == 0
    reset_accelerate()
    publishing.publish(folder / "second", folder / "tiny_net.my insects", None, False, paper.accuracy)


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes cards without ONNX files, the most of its time: for tests of all else. Their outputs are torch's."""

    def outputs(_: Path, model: nn.Module, test: loading.Split, batch_size: int | None = None) -> dict[str, np.ndarray]:
        return dict.fromkeys(("torch", *metadata.FILES), evaluation.torch_outputs(model, test, batch_size=batch_size))

    monkeypatch.setattr(build, "export", lambda _: [])
    monkeypatch.setattr(build, "state_accuracies", lambda _: None)
    monkeypatch.setattr(checks, "onnx_files", lambda _: metadata.FILES)
    monkeypatch.setattr(checks, "outputs", outputs)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave an empty file for their curves: to draw them takes longer than to train a tiny network."""

    def curves(_rows: object, _title: str, path: Path, *_: object) -> None:
        path.touch()

    monkeypatch.setattr(plots, "curves", curves)


@pytest.fixture
def no_draws() -> Iterator[None]:
    """Networks begin with zeros, for tests that do not look at them: a VGG16 takes a second to draw."""
    with _ZerosForDraws():
        yield


def torch_logits(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.eval()(Preprocess(models.pretrained_cfg(model))(images)).numpy()


def without_repeated_blocks(model: nn.Module) -> nn.Module:
    """One of the project's networks without blocks like the one before: the same kinds of layers, sooner exported."""
    if isinstance(model, GoogLeNet):  # one block for each size of the maps, and one after another
        for name in ("3a", "4a", "4b", "4c", "4d"):
            setattr(model, f"inception{name}", nn.Identity())
        model.inception3b = Inception(192, 128, 128, 192, 32, 96, 64)
        model.inception4e = Inception(480, 256, 160, 320, 32, 128, 128)
    for name in ("layer2", "layer3", "layer4"):
        if hasattr(model, name):
            model.get_submodule(name)[1] = nn.Identity()
    return model


def narrow_vgg16(name: str, hidden: int = 16, classes: int = 10) -> Any:
    """VGG16 with narrow linear layers, initialised as the whole one: its 120 million weights take seconds to draw."""
    model: Any = timm.create_model(name, device="meta")
    mlp = model.pre_logits
    mlp.fc1 = nn.Linear(mlp.fc1.in_features, hidden, device="meta")
    mlp.fc2 = nn.Linear(hidden, hidden, device="meta")
    model.head.fc = nn.Linear(hidden, classes, device="meta")
    model.to_empty(device="cpu")._initialize_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model
