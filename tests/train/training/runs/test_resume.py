"""A run stopped in whatever way and resumed ends as the uninterrupted one: weights, log and metrics, bit for bit."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_networks
import torch
from conftest import SAMPLES, Child, outcome
from safetensors.torch import load_file

from train.training.runs import checkpoint

# The runs of these tests are forked from one server, which imports training once: for all of them in one process.
pytestmark = pytest.mark.xdist_group("start")

ARGUMENTS = (
    *("--model", "tiny_net", "--dataset", "mnist", "--data-dir", str(SAMPLES)),
    *("--recipe", "fast", "--epochs", "3", "--seed", "7", "--learning-rate", "0.05", "--batch-size", "128"),
)
EVERY_STEP = ("--save-minutes", "0")


@pytest.fixture(scope="module")
def uninterrupted(start: Callable[..., Child], tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    child = start(*ARGUMENTS, "--output-dir", folder)
    assert child.wait() == 0, child.text()
    assert "Traceback" not in child.text()
    return outcome(folder)


def states(folder: Path) -> list[Path]:
    return sorted((folder / "states").glob("[0-9]*"))


def undamaged(folder: Path) -> list[Path]:
    return [state for state in states(folder) if checkpoint._damage(state) is None]


def finish(start: Callable[..., Child], folder: Path) -> str:
    child = start(*ARGUMENTS, "--output-dir", folder, "--resume")
    assert child.wait() == 0, child.text()
    return child.text()


def test_terminated_in_mid_epoch(start: Callable[..., Child], uninterrupted: tuple, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder)
    child.wait_for(lambda: bool(states(folder)) and int(states(folder)[-1].name) >= 16)
    child.process.terminate()
    assert child.wait() == 130, child.text()
    last = child.text().strip().splitlines()[-1]
    assert last.startswith("fit.py: stopped in epoch ")
    assert "--resume" in last
    assert not (folder / "metrics.json").exists()
    assert int(states(folder)[-1].name) % 13 != 0
    assert "Resuming from" in finish(start, folder)
    assert outcome(folder) == uninterrupted


def test_interrupted_by_ctrl_c_before_any_state_was_due(
    start: Callable[..., Child], uninterrupted: tuple, tmp_path: Path
) -> None:
    """The default asks for a state every ten minutes; the signal alone makes one."""
    folder = tmp_path / "run"
    child = start(*ARGUMENTS, "--output-dir", folder)
    child.wait_for((folder / "states").is_dir)
    os.kill(child.process.pid, signal.SIGINT)
    assert child.wait() == 130, child.text()
    assert states(folder)
    finish(start, folder)
    assert outcome(folder) == uninterrupted


def test_fine_tuning_is_resumed_bit_for_bit(start: Callable[..., Child], tmp_path: Path) -> None:
    """From weights whose classes have other names, so that a classifier is fitted first."""
    first = tmp_path / "first"
    child = start(*ARGUMENTS, "--output-dir", first)
    assert child.wait() == 0, child.text()
    run = json.loads((first / "args.json").read_text())
    (first / "args.json").write_text(json.dumps(run | {"class_names": list("abcdefghij")}))
    tuning = (*ARGUMENTS, "--pretrained", first, "--output-dir")
    child = start(*tuning, tmp_path / "whole")
    assert child.wait() == 0, child.text()
    assert "classifier fitted to frozen features" in child.text()
    norms = [load_file(folder / "model.safetensors")["norm.running_mean"] for folder in (first, tmp_path / "whole")]
    assert torch.equal(*norms)
    folder = tmp_path / "run"
    for step in (5, 20):
        child = start(*tuning, folder, *EVERY_STEP, "--resume")
        child.wait_for(lambda step=step: bool(states(folder)) and int(states(folder)[-1].name) >= step)
        child.process.kill()
        assert child.wait() == -signal.SIGKILL
    child = start(*tuning, folder, "--resume")
    assert child.wait() == 0, child.text()
    assert "Derived" not in child.text()
    assert outcome(folder) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_while_saving(start: Callable[..., Child], uninterrupted: tuple, tmp_path: Path, seed: int) -> None:
    """Killed at calls drawn at random among all fsyncs, renames and removals, again and again."""
    folder, generator = tmp_path / "run", random.Random(seed)
    for most in (12, 40, 120):
        call = generator.randrange(1, most)
        child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder, "--resume", before=(tiny_networks.die_at, call))
        assert child.wait() == -signal.SIGKILL, f"call {call}: {child.text()}"
        assert undamaged(folder)[-1:] == states(folder)[-1:]
    finish(start, folder)
    assert outcome(folder) == uninterrupted
    assert not list((folder / "states").glob("partial-*"))


def test_killed_from_outside(start: Callable[..., Child], uninterrupted: tuple, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for step in (4, 20):
        child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder, "--resume")
        child.wait_for(lambda step=step: bool(states(folder)) and int(states(folder)[-1].name) >= step)
        child.process.kill()
        assert child.wait() == -signal.SIGKILL
    finish(start, folder)
    assert outcome(folder) == uninterrupted


def test_full_disk_and_damaged_states(start: Callable[..., Child], uninterrupted: tuple, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder, before=(tiny_networks.die_at, 60))
    assert child.wait() == -signal.SIGKILL, child.text()
    before = {path: path.read_bytes() for state in states(folder) for path in state.iterdir()}
    assert len(undamaged(folder)) == 2

    full = (tiny_networks.limit_file_size, 3000)
    child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder, "--resume", before=full)
    assert child.wait() == 1, child.text()
    line = child.text().splitlines()[-1]
    assert line.startswith("fit.py: cannot save the state of step ")
    assert line.endswith(": File too large")  # as the system names it, and not the line of torch's source
    assert "Traceback" not in child.text()
    assert {path: path.read_bytes() for state in states(folder) for path in state.iterdir()} == before

    # The first file to be written that is too large is the plot of the curves, at the end of an epoch.
    child = start(*ARGUMENTS, "--output-dir", folder, "--resume", before=full)
    assert child.wait() == 1, child.text()
    assert child.text().splitlines()[-1].startswith("fit.py: ")
    assert "Traceback" not in child.text()

    newest = states(folder)[-1] / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert "is damaged" in finish(start, folder)
    assert outcome(folder) == uninterrupted


def test_all_states_damaged(start: Callable[..., Child], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = start(*ARGUMENTS, *EVERY_STEP, "--output-dir", folder, before=(tiny_networks.die_at, 60))
    assert child.wait() == -signal.SIGKILL, child.text()
    for state in states(folder):
        (state / "optimizer.bin").unlink()
    child = start(*ARGUMENTS, "--output-dir", folder, "--resume")
    assert child.wait() == 1, child.text()
    last = child.text().strip().splitlines()[-1]
    assert last.startswith("fit.py: every state in ")
    assert "Traceback" not in child.text()
