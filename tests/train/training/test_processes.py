"""Two processes on the CPU, by gloo, give the loss curve of one."""

import csv
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_networks
import torch
from conftest import SAMPLES, Child
from safetensors.torch import load_file

# The runs of these tests are forked from one server, which imports training once: for all of them in one process.
pytestmark = pytest.mark.xdist_group("start")

ARGUMENTS = (
    # With BatchNorm; each process drops units of its own.
    *("--model", "tiny_net", "--model-kwargs", "drop_rate=0.0", "--dataset", "mnist", "--data-dir", str(SAMPLES)),
    *("--mixed-precision", "no"),
    *("--recipe", "fast", "--epochs", "2", "--seed", "3", "--learning-rate", "0.05", "--batch-size", "128"),
)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def read_losses(file: Path) -> list[float]:
    with file.open() as stream:
        return [float(row["train_loss"]) for row in csv.DictReader(stream)]


def compare(one: Path, two: Path, validation: float = 1e-5) -> None:
    for a, b in zip(rows(one), rows(two), strict=True):
        for name in ("epoch", "learning_rate", "train_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=validation)
        for name in ("train_accuracy", "validation_accuracy"):
            assert a[name] == pytest.approx(b[name], abs=0.31), name  # one image at the border of two classes
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    far = {name: float((first[name] - second[name]).abs().max()) for name in first}
    # Sums in another order; the steps enlarge what that changes in the seventh digit.
    assert max(far.values()) < 1e-3, far
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert [found["processes"] for found in figures] == [1, 2]
    assert [found["test_images"] for found in figures] == [1000, 1000]  # none counted twice
    assert figures[0]["test_accuracy"] == pytest.approx(figures[1]["test_accuracy"], abs=0.11)


@pytest.fixture(scope="module", name="start")
def _start(start: Callable[..., Child]) -> Callable[..., Child]:
    return functools.partial(start, before=(tiny_networks.draw_no_curves, 0))


@pytest.fixture(scope="module")
def one(start: Callable[..., Child], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    child = start(*ARGUMENTS, "--output-dir", folder)
    assert child.wait() == 0, child.text()
    return folder


def begin_two(start: Callable[..., Child], folder: Path, *more: object) -> list[Child]:
    """The same run by two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    group = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(*ARGUMENTS, *more, "--output-dir", folder, RANK=rank, LOCAL_RANK=rank, **group) for rank in range(2)]


def two(start: Callable[..., Child], folder: Path, *more: object) -> None:
    """The same run by two processes, to its end."""
    children = begin_two(start, folder, *more)
    for child in children:
        assert child.wait() == 0, child.text()
    assert children[1].text().count("Epoch") == 0  # one of them speaks


def test_two_processes(start: Callable[..., Child], one: Path, tmp_path: Path) -> None:
    two(start, tmp_path / "run")
    compare(one, tmp_path / "run")


def test_two_processes_with_small_batches(start: Callable[..., Child], tmp_path: Path) -> None:
    """More steps, of which each multiplies the rounding of those before: the first 20 agree."""
    folders = [tmp_path / "one", tmp_path / "two"]
    more = ("--batch-size", "32", "--epochs", "1")
    child = start(*ARGUMENTS, *more, "--output-dir", folders[0])
    assert child.wait() == 0, child.text()
    two(start, folders[1], *more)
    first, second = (read_losses(folder / "steps.csv") for folder in folders)
    assert len(first) == len(second) > 20
    assert first[:10] == pytest.approx(second[:10], rel=1e-5)
    assert first == pytest.approx(second, rel=1e-2)


@pytest.mark.parametrize("told", [(0, 1), (1,)])
def test_two_processes_stop_within_an_epoch(start: Callable[..., Child], tmp_path: Path, told: tuple[int, ...]) -> None:
    """Epochs of 13 steps; the signal may reach one of them alone."""
    folder = tmp_path / "run"
    children = begin_two(start, folder, "--epochs", "300")
    children[0].wait_for((folder / "log.csv").is_file)
    for rank in told:
        os.kill(children[rank].process.pid, signal.SIGINT)
    assert [child.wait(60) for child in children] == [130, 130], children[0].text()
    assert "fit.py: stopped in epoch " in children[0].text()
    assert list((folder / "states").iterdir())


def test_the_end_of_one_is_the_end_of_all(start: Callable[..., Child], tmp_path: Path) -> None:
    """Whichever is killed. The run goes on from its last state, also in a single process, and ends as one did."""
    folder = tmp_path / "run"
    more = ("--epochs", "12", "--save-minutes", "0")
    for killed, resume in ((1, ()), (0, ("--resume",))):
        before = len(rows(folder)) if resume else 0
        children = begin_two(start, folder, *more, *resume)
        children[0].wait_for(lambda before=before: (folder / "log.csv").is_file() and len(rows(folder)) > before)
        children[killed].process.kill()
        assert children[1 - killed].wait(60) == 1
        assert children[1 - killed].text().count("fit.py: another process of this run has ended") == 1
        assert "Traceback" not in children[1 - killed].text()
    child = start(*ARGUMENTS, *more, "--resume", "--output-dir", folder)
    assert child.wait() == 0, child.text()
    whole = start(*ARGUMENTS, *more, "--output-dir", tmp_path / "whole")
    assert whole.wait() == 0, whole.text()
    for a, b in zip(rows(folder), rows(tmp_path / "whole"), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-2)


def test_two_processes_with_a_teacher(start: Callable[..., Child], one: Path, tmp_path: Path) -> None:
    child = start(*ARGUMENTS, "--teacher", one, "--output-dir", tmp_path / "one")
    assert child.wait() == 0, child.text()
    two(start, tmp_path / "two", "--teacher", one)
    compare(tmp_path / "one", tmp_path / "two")
    losses = [rows(folder)[-1]["train_loss"] for folder in (one, tmp_path / "one")]
    assert abs(losses[0] - losses[1]) > 0.01  # it has its say


@pytest.mark.parametrize("flags", [(), ("--freeze",)])
def test_two_processes_fine_tune(
    start: Callable[..., Child], one: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """With BatchNorm's statistics kept, and a classifier that is fitted first."""
    weights = Path(shutil.copytree(one, tmp_path / "weights"))
    run = json.loads((weights / "args.json").read_text())
    (weights / "args.json").write_text(json.dumps(run | {"class_names": list("abcdefghij")}))
    more = ("--pretrained", weights, *flags)
    child = start(*ARGUMENTS, *more, "--output-dir", tmp_path / "one")
    assert child.wait() == 0, child.text()
    two(start, tmp_path / "two", *more)
    # On a Xeon with AMX 4e-7 after the first epoch, 2.4e-5 after the second: the weights differ as `compare` allows.
    compare(tmp_path / "one", tmp_path / "two", validation=1e-4)
    means = [load_file(folder / "model.safetensors")["norm.running_mean"] for folder in (weights, tmp_path / "two")]
    assert torch.equal(*means)


@pytest.mark.slow
def test_two_processes_by_torchrun(one: Path, tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` would start a single process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "tests/train/tiny_networks.py", *ARGUMENTS, "--output-dir", str(tmp_path / "run")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compare(one, tmp_path / "run")


def launch(machines: tuple[str, str], folder: Path, *more: object) -> list[subprocess.Popen[str]]:
    """The command of docs/training.md on both machines, each with a process of its own."""
    root, found = Path(__file__).parents[3], []
    for rank, machine in enumerate(machines):
        launcher = [
            *("ip", "netns", "exec", machine, sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
            *("--quiet", "--multi_gpu", "--num_machines", "2", "--num_processes", "2", "--same_network"),
            *("--machine_rank", str(rank), "--main_process_ip", "10.77.0.1", "--main_process_port", "29511"),
        ]
        environment = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        command = [*launcher, "tests/train/tiny_networks.py", *ARGUMENTS, *map(str, more), "--output-dir", str(folder)]
        found.append(
            subprocess.Popen(
                command, cwd=root, env={**os.environ, **environment}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    return found


@pytest.mark.slow
def test_two_machines(one: Path, tmp_path: Path, machines: tuple[str, str]) -> None:
    """They give the loss of one process."""
    children = launch(machines, tmp_path / "run")
    texts = [child.communicate(timeout=500)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], texts
    compare(one, tmp_path / "run")


@pytest.mark.slow
def test_the_process_of_one_machine_ends_that_of_the_other(tmp_path: Path, machines: tuple[str, str]) -> None:
    folder = tmp_path / "run"
    children = launch(machines, folder, "--epochs", "3000", "--save-minutes", "0")
    while not (folder / "log.csv").is_file():
        assert [child.poll() for child in children] == [None, None]
        time.sleep(0.1)
    listed = subprocess.run(["ip", "netns", "pids", machines[1]], check=True, capture_output=True, text=True)
    for number in map(int, listed.stdout.split()):
        if number != children[1].pid and b"accelerate_cli" not in Path(f"/proc/{number}/cmdline").read_bytes():
            os.kill(number, signal.SIGKILL)
    texts = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [1, 1]
    assert "fit.py: another process of this run has ended" in texts[0]
    assert list((folder / "states").iterdir())
