"""The queue's runs: how they are stopped, their order, the time that is left."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from train.training.runs import run_queue


def test_who_does_not_stop_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_queue, "SECONDS_TO_STOP", 0.5)
    deaf = ["sh", "-c", "trap '' TERM; echo; sleep 60; true"]
    with subprocess.Popen(deaf, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run_queue.stop([run_queue.Run("vanilla_resnet18", "mnist", "fast", 0, tmp_path / "deaf", 10, process=process)])
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert "deaf is killed after 0.5 s, its last state kept" in capsys.readouterr().out


def test_time_left_is_told() -> None:
    runs = [
        run_queue.Run("vanilla_resnet18", "mnist", "fast", 0, Path("none"), 10),
        run_queue.Run("improved_resnet18", "mnist", "fast", 0, Path("none"), 10),
    ]
    left = 10 * run_queue.COST["vanilla_resnet18"] + 10 * run_queue.COST["improved_resnet18"]
    assert list(run_queue.report(runs, left / 4, 3600)) == ["2 runs left, about 4.0 h"]
    assert list(run_queue.report(runs, 0, 60)) == ["2 runs left"]


def test_runs_under_way_are_told_with_their_last_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "resnet"
    folder.mkdir()
    (folder / "log.csv").write_text("epoch,validation_accuracy\n1,50.0\n2,91.0\n")
    under_way: Any = object()
    run = run_queue.Run("vanilla_resnet18", "mnist", "fast", 0, folder, 10, process=under_way)
    done = 2 * run_queue.COST["vanilla_resnet18"]
    assert run.cost_left() == 4 * done
    lines = ["resnet: 2 of 10 epochs, validation accuracy 91.00 %", "1 runs left, about 4.0 h"]
    assert list(run_queue.report([run], done, 3600)) == lines


def test_cheap_runs_come_first_and_seeds_one_after_the_other(tmp_path: Path) -> None:
    runs = run_queue.runs(["improved_vgg16", "vanilla_resnet18"], ["mnist"], [1, 0], "fast", tmp_path, None)
    names = ["vanilla_resnet18.mnist.fast.seed", "improved_vgg16.mnist.fast.seed"]
    assert [str(run) for run in runs] == [f"{name}{seed}" for seed in (1, 0) for name in names]


def test_a_network_without_a_cost_of_its_own_is_queued(tmp_path: Path) -> None:
    runs = run_queue.runs(["improved_vgg16", "improved_new", "vanilla_resnet18"], ["mnist"], [0], "fast", tmp_path, 2)
    assert [run.model for run in runs] == ["vanilla_resnet18", "improved_new", "improved_vgg16"]
    assert all(run.cost_left() > 0 for run in runs)
