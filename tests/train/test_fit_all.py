"""The queue of runs: what is complete is left alone, what fails stops nothing, a signal loses nothing."""

import dataclasses
import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from train import fit, fit_all, records
from train.onnx_export import build
from train.records import RunDescription, RunMetrics
from train.training import recipes
from train.training.runs import run_folder, run_queue
from zoo.catalog import DATASETS, NETWORKS

# In the place of fit.py: an epoch a line of its log, as told by a file for each model. It imports nothing of the
# project, which would take most of the time of these tests.
STUB = """
import json, pathlib, signal, sys, time
from filelock import FileLock
values = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = pathlib.Path(values["--output-dir"])
folder.mkdir(parents=True, exist_ok=True)
here = pathlib.Path(sys.argv[0]).parent
wish = here / values["--model"]
def note(line, file=folder / "starts"):
    with file.open("a") as stream:
        print(line, file=stream)
note(" ".join(sys.argv[1:]))
note("+1", here / "running")
def free():
    (folder / LOCK).unlink()
    lock.release()
def stop(*_):
    time.sleep({"mnist": 0.5, "cifar10": 2}[values["--dataset"]])
    (folder / "saved").touch()
    free()
    sys.exit(130)
if wish.is_file() and wish.read_text() == "fail":
    sys.exit("fit.py: nothing to learn")
lock = FileLock(folder / LOCK)
lock.acquire()
signal.signal(signal.SIGTERM, stop)
log = folder / "log.csv"
if not log.is_file():
    log.write_text("epoch,validation_accuracy\\n")
    with log.open("a") as file:
        print("1,50.0", file=file)
if wish.is_file() and wish.read_text() == "wait":
    time.sleep(60)
usual = EPOCHS[values["--model"]][values["--dataset"]]
epochs = int(sys.argv[sys.argv.index("--epochs") + 1]) if "--epochs" in sys.argv else usual
metrics = json.loads((here / "metrics.json").read_text())
(folder / "metrics.json").write_text(json.dumps({**metrics, "epochs": epochs}))
note("end")
note("-1", here / "running")
free()
"""
# Of a run of one epoch.
METRICS = RunMetrics(
    test_accuracy=12.5, test_images=1000, per_class_accuracy={}, confusion_matrix=[], validation_accuracy=12.0,
    train_accuracy=12.0, parameters=1, epochs=1, seed=0, train_images=1667, train_seconds=1.0, images_per_second=1667.0,
    processes=1, mixed_precision="no", device="", threads=1, device_memory_bytes=None, host_memory_bytes=1, versions={},
    git_commit=None,
)  # fmt: skip


@pytest.fixture
def launcher(tmp_path: Path) -> str:
    stub = tmp_path / "stub.py"
    epochs = {
        model: {dataset: recipes.get("fast", model, dataset).epochs for dataset in DATASETS} for model in NETWORKS
    }
    stub.write_text(f"LOCK, EPOCHS = {run_folder.LOCK!r}, {epochs!r}\n{STUB}")
    records.write(METRICS, tmp_path / "metrics.json")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(stub))}"


def run(tmp_path: Path, launcher: str, *more: str) -> int:
    return fit_all.main(["--runs-dir", str(tmp_path / "runs"), "--launcher", launcher, *more])


def test_all_twelve_are_done_once(tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, launcher, "--jobs", "4", "--", "--epochs", "3") == 0
    folders = sorted((tmp_path / "runs").glob("*/"))
    assert len(folders) == 12
    assert (tmp_path / "runs" / "improved_vgg16.mnist.fast.seed0").is_dir()
    for folder in folders:
        (start, end) = (folder / "starts").read_text().splitlines()
        assert start.endswith("--resume --epochs 3")
        assert end == "end"
    printed = capsys.readouterr().out
    assert "0 of 12 runs are complete" in printed
    assert "vanilla_vgg16.cifar10.fast.seed0 is done: test accuracy 12.50 %" in printed
    assert run(tmp_path, launcher, "--jobs", "4", "--", "--epochs", "3") == 0
    assert "12 of 12 runs are complete" in capsys.readouterr().out
    assert all(len((folder / "starts").read_text().splitlines()) == 2 for folder in folders)


class InThisProcess:
    """In the place of a process of `fit.py`, whose imports take seconds: it has ended when it has begun."""

    def __init__(self, words: list[str], stdout: BinaryIO, **_: Any) -> None:
        output = io.TextIOWrapper(stdout, write_through=True)
        with redirect_stdout(output), redirect_stderr(output):
            self.returncode = fit.main(words[words.index(str(fit_all.FIT)) + 1 :])
        output.detach()

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(Popen=InThisProcess, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(run_queue, "subprocess", found)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_of_other_epochs_is_not_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`fit.py` says what is wrong, and the run is left as it is."""
    arguments = ["--models", "vanilla_resnet18", "--datasets", "mnist", "--runs-dir", str(tmp_path)]
    folder = tmp_path / "vanilla_resnet18.mnist.fast.seed0"
    folder.mkdir()
    recipe = dataclasses.replace(recipes.get("fast", "vanilla_resnet18", "mnist"), epochs=1)
    run = RunDescription(
        model="vanilla_resnet18", dataset="mnist", recipe="fast", settings=recipes.as_settings(recipe), seed=0,
        class_names=list("0123456789"),
    )  # fmt: skip
    records.write(run, folder / "args.json")
    records.write(METRICS, folder / "metrics.json")
    assert fit_all.main([*arguments, "--", "--data-dir", str(build.SAMPLES), "--epochs", "2"]) == 1
    printed = capsys.readouterr().out
    assert "0 of 1 runs are complete" in printed
    assert "its epochs was 1, now it is 2" in printed


@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_run_fails_and_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vanilla_resnet18.mnist.fast.seed0"
    folder.mkdir()
    for name in ("args.json", "metrics.json"):
        (folder / name).write_text("{")
    arguments = ["--models", "vanilla_resnet18", "--datasets", "mnist", "--runs-dir", str(tmp_path)]
    assert fit_all.main([*arguments, "--", "--data-dir", str(build.SAMPLES), "--epochs", "1"]) == 1
    assert "vanilla_resnet18.mnist.fast.seed0 FAILED" in capsys.readouterr().out
    assert "args.json is damaged" in (tmp_path / f"{folder.name}.log").read_text()
    assert (folder / "metrics.json").read_text() == "{"


def test_a_failure_is_told_and_stops_no_other(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vanilla_resnet18").write_text("fail")
    arguments = ["--models", "vanilla_vgg16", "vanilla_resnet18", "--datasets", "mnist", "--seeds", "0", "1"]
    assert run(tmp_path, launcher, *arguments) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED with status 1: fit.py: nothing to learn") == 2
    done = {folder.name for folder in (tmp_path / "runs").glob("*/") if (folder / "metrics.json").is_file()}
    assert done == {"vanilla_vgg16.mnist.fast.seed0", "vanilla_vgg16.mnist.fast.seed1"}
    # Mended, only those are done again.
    (tmp_path / "vanilla_resnet18").unlink()
    assert run(tmp_path, launcher, *arguments) == 0
    assert len((tmp_path / "runs/vanilla_vgg16.mnist.fast.seed0/starts").read_text().splitlines()) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_never_more_side_by_side_than_asked_for(tmp_path: Path, launcher: str, jobs: int) -> None:
    names = ["vanilla_vgg16", "improved_vgg16", "vanilla_googlenet"]
    assert run(tmp_path, launcher, "--models", *names, "--datasets", "mnist", "--jobs", str(jobs)) == 0
    running = list(itertools.accumulate(map(int, (tmp_path / "running").read_text().split())))
    assert len(running) == 2 * len(names)
    assert max(running) <= jobs


def test_a_run_asked_for_twice_is_done_once(tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", *["vanilla_resnet18"] * 2, "--datasets", *["mnist"] * 2, "--seeds", "0", "0"]
    assert run(tmp_path, launcher, *arguments, "--jobs", "2") == 0
    assert "0 of 1 runs are complete" in capsys.readouterr().out
    assert len((tmp_path / "runs/vanilla_resnet18.mnist.fast.seed0/starts").read_text().splitlines()) == 2


def test_a_run_that_cannot_start_stops_no_other(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "runs/vanilla_resnet18.cifar10.fast.seed0.log"
    log.mkdir(parents=True)
    arguments = ["--models", "vanilla_resnet18", "--datasets", "cifar10", "mnist", "--jobs", "2"]
    assert run(tmp_path, launcher, *arguments) == 1
    printed = capsys.readouterr().out
    assert f"vanilla_resnet18.cifar10.fast.seed0 FAILED to start: [Errno 21] Is a directory: '{log}'\n" in printed
    assert "vanilla_resnet18.mnist.fast.seed0 is done" in printed


def test_an_error_leaves_no_training_behind(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vanilla_resnet18").write_text("wait")
    folder = tmp_path / "runs/vanilla_resnet18.mnist.fast.seed0"

    def report(*_: object) -> Iterator[str]:
        if (folder / "log.csv").is_file():
            raise OSError(28, "No space left on device")
        yield ""

    monkeypatch.setattr(run_queue, "report", report)
    monkeypatch.setattr(run_queue, "SECONDS_BETWEEN_REPORTS", 0)
    assert run(tmp_path, launcher, "--models", "vanilla_resnet18", "--datasets", "mnist") == 1
    assert (folder / "saved").is_file()
    printed = capsys.readouterr()
    assert "is stopped, its state saved" in printed.out
    assert printed.err == "fit_all.py: [Errno 28] No space left on device\n"


def test_a_signal_stops_all_in_good_order(tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the launcher ends at once, before what it launched has saved: that of CIFAR-10, which saves last."""
    (tmp_path / "vanilla_resnet18").write_text("wait")
    launches = f'case "$*" in *cifar10*) {launcher} "$@" & wait;; *) exec {launcher} "$@";; esac'
    launcher = shlex.join(["sh", "-c", launches, "sh"])
    folders = [tmp_path / "runs" / f"vanilla_resnet18.{dataset}.fast.seed0" for dataset in ("mnist", "cifar10")]

    def stop() -> None:
        deadline = time.monotonic() + 50  # the runs wait for a minute
        while time.monotonic() < deadline:
            if all((folder / "log.csv").is_file() for folder in folders):
                os.kill(os.getpid(), signal.SIGTERM)  # the runs are sessions of their own: it does not reach them
                return
            time.sleep(0.05)

    thread = threading.Thread(target=stop)
    thread.start()
    status = run(tmp_path, launcher, "--models", "vanilla_resnet18", "--jobs", "2")
    thread.join()
    assert status == 1
    assert capsys.readouterr().out.count("is stopped, its state saved") == 2
    assert all((folder / "saved").is_file() for folder in folders)


@pytest.mark.parametrize(("given", "threads"), [(None, "2"), ("3", "3")])
def test_runs_side_by_side_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, threads: str
) -> None:
    monkeypatch.setattr(run_queue, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    tell = shlex.join([sys.executable, "-S", "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"])
    assert run(tmp_path, tell, "--models", "vanilla_resnet18", "--datasets", "mnist", "--jobs", "4") == 1
    assert (tmp_path / "runs/vanilla_resnet18.mnist.fast.seed0.log").read_text() == f"{threads}\n"


def test_one_real_run(few_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", "vanilla_resnet18", "--datasets", "mnist", "--runs-dir", str(tmp_path)]
    fit = ["--", "--data-dir", str(few_samples), "--epochs", "1"]
    assert fit_all.main([*arguments, *fit]) == 0
    metrics = json.loads((tmp_path / "vanilla_resnet18.mnist.fast.seed0/metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert "is done: test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--models", "resnet50"], "resnet50"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--recipe", "slow"], "slow"),
        (["--launcher", "nosuch --quiet"], "--launcher: 'nosuch --quiet': no such command"),
        (["--launcher", ""], "--launcher: '': no such command"),
        (["--launcher", "'"], """--launcher: "'": No closing quotation"""),
        (["--runs-dir", __file__], f"--runs-dir {__file__}: no folder can be made there (File exists)"),
        (["--runs-dir", f"{__file__}/runs"], f"--runs-dir {__file__}/runs: no folder can be made there (Not a "),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        fit_all.main(arguments)
    assert raised.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
