"""`train/fit.py` as its user meets it: what it leaves, goes on with, and keeps apart."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import accelerate
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import CACHE, SAMPLES, one_line, reset_accelerate
from safetensors import SafetensorError
from safetensors.torch import load_file

from train import evaluate, fit, records
from train.cards import evaluation
from train.data import loading
from train.training import arguments, fitting, loop, models
from train.training.progress import LossError
from train.training.results import logits, measure, plots
from train.training.runs import checkpoint, run_folder
from zoo.catalog import DATASETS

FULL = "No space left on device"
TINY = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", SAMPLES)
SHORT = (*TINY, "--epochs", 1, "--seed", 3, "--batch-size", 32, "--learning-rate", 0.05)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with a tracker."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    reset_accelerate()
    arguments = (*SHORT, "--tracker", "tensorboard", "--output-dir", folder)
    assert fit.main([str(argument) for argument in arguments]) == 0
    return folder


def test_leaves_a_complete_run_folder(finished: Path) -> None:
    run = json.loads((finished / "args.json").read_text())
    assert (run["model"], run["dataset"], run["recipe"], run["seed"]) == ("tiny_net", "mnist", "fast", 3)
    assert run["class_names"] == list("0123456789")
    assert run["settings"]["epochs"] == 1
    with (finished / "log.csv").open() as file:
        (log,) = csv.DictReader(file)
    columns = (
        "epoch learning_rate train_loss train_accuracy validation_loss validation_loss_smoothed validation_accuracy "
        "images_per_second seconds"
    )
    assert list(log) == columns.split()
    # 52 steps: a row for every second one.
    with (finished / "steps.csv").open() as file:
        steps = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in steps] == list(range(2, 53, 2))
    assert sum(row["train_loss"] for row in steps) / len(steps) == pytest.approx(float(log["train_loss"]), rel=1e-3)
    assert max(row["learning_rate"] for row in steps) == pytest.approx(0.05, rel=0.1)
    with PIL.Image.open(finished / "curves.png") as picture:
        picture.load()
        assert min(picture.size) > 200
    assert len(list((finished / "states").glob("[0-9]*"))) == 1
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]
    readable = {path.name: path.stat().st_mode & 0o777 for path in finished.iterdir() if path.is_file()}
    assert len(set(readable.values())) == 1


def test_metrics_are_complete_and_agree_with_each_other(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    confusion = np.array(metrics["confusion_matrix"])
    assert confusion.shape == (10, 10)
    assert confusion.sum() == metrics["test_images"] == 1000
    assert metrics["test_accuracy"] == pytest.approx(confusion.trace() / 10)
    assert list(metrics["per_class_accuracy"].values()) == pytest.approx(list(confusion.diagonal()))  # 100 of each
    model, _ = models.load_run(finished)
    assert metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert metrics["train_seconds"] > 0
    # 52 batches of 32; the three images left are too few for another.
    assert metrics["images_per_second"] == pytest.approx(1664 / metrics["train_seconds"])
    assert (metrics["seed"], metrics["epochs"], metrics["train_images"]) == (3, 1, 1667)
    assert metrics["device"]
    assert metrics["host_memory_bytes"] > 1e8
    assert metrics["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"timm", "accelerate", "torchvision", "python"} <= set(metrics["versions"])
    assert len(metrics["git_commit"].rstrip("+")) == 40


def test_weights_that_are_left_have_the_stated_accuracy(finished: Path, mnist: loading.Dataset) -> None:
    reset_accelerate()
    model, _ = models.load_run(finished)
    right = (evaluation.torch_outputs(model, mnist.test).argmax(1) == mnist.test.labels.numpy()).sum()
    stated = json.loads((finished / "metrics.json").read_text())["test_accuracy"]
    assert right / 10 == pytest.approx(stated, abs=1e-6)
    assert stated > 30  # it learned something
    validation, test = logits.read(finished / "logits.npz")
    assert 100 * (test.logits.argmax(1) == test.labels).mean() == pytest.approx(stated)
    np.testing.assert_array_equal(test.labels, mnist.test.labels.numpy())
    np.testing.assert_array_equal(validation.labels, mnist.validation.labels.numpy())


def test_tracker_gets_the_log(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(finished / "deep-image-zoo")).Reload()
    with (finished / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    for name in ("train_loss", "validation_accuracy", "learning_rate"):
        (scalar,) = found.Scalars(name)
        assert scalar.step == 1
        assert scalar.value == pytest.approx(float(row[name]), rel=1e-5)


def test_the_papers_datasets_are_known_by_their_hub_ids() -> None:
    for name, hub_id in ((name, entry.hub_id) for name, entry in DATASETS.items()):
        args = arguments.parse(["--model", "improved_resnet18", "--dataset", hub_id])
        assert args.dataset == name
        assert arguments.recipe_for(args) == arguments.recipe_for(
            arguments.parse(["--model", "improved_resnet18", "--dataset", name])
        )


@pytest.mark.parametrize(("asked", "emulated"), [("true", True), ("True", True), ("1", True), ("no", False)])
def test_on_a_cpu_without_bf16_it_is_not_emulated(asked: str, emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu` says "True"."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    assert arguments.emulates_bf16() is emulated


def test_what_a_card_says_of_pictures_is_what_was_done() -> None:
    """Other networks of timm come with a crop and another interpolation, which are not for pictures of this size."""
    cfg = models.pretrained_cfg(models.create("resnet18", "cifar10", num_classes=10, in_chans=3))
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["crop_mode"]) == ("bilinear", 1.0, "center")


def test_a_complete_run_needs_nothing_that_it_began_with(run: Run, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "start")
    arguments = (*SHORT, "--pretrained", tmp_path / "start", "--output-dir", tmp_path / "run")
    assert run(*arguments)[0] == 0
    (tmp_path / "start").rename(tmp_path / "moved")
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    assert args["pretrained"] == str(tmp_path / "start")
    status, output, errors = run(*arguments, "--resume")
    assert (status, errors) == (0, "")
    assert "is complete" in output


@pytest.mark.parametrize("option", ["--pretrained", "--teacher"])
def test_a_damaged_run_gets_one_line(run: Run, finished: Path, tmp_path: Path, option: str) -> None:
    shutil.copytree(finished, tmp_path / "damaged")
    (tmp_path / "damaged" / "args.json").write_text("{")
    status, _, errors = run(*TINY, option, tmp_path / "damaged", "--output-dir", tmp_path / "run")
    assert status == 2
    assert "args.json is damaged" in one_line(errors)


def test_existing_run_is_neither_overwritten_nor_mixed_with_another(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = (folder / "model.safetensors").read_bytes()
    status, _, errors = run(*SHORT, "--output-dir", folder)
    assert status == 2
    assert "--resume" in one_line(errors)
    status, output, _ = run(*SHORT, "--output-dir", folder, "--resume")
    assert status == 0
    assert "complete" in output
    (folder / "metrics.json").unlink()
    for other, word in ((("--seed", 9), "seed"), (("--learning-rate", 0.5), "learning_rate")):
        status, _, errors = run(*SHORT, "--output-dir", folder, "--resume", *other)
        assert status == 2
        assert f"its {word} was" in one_line(errors)
    assert (folder / "model.safetensors").read_bytes() == before
    (folder / "args.json").write_text("{")
    status, _, errors = run(*SHORT, "--output-dir", folder, "--resume")
    assert status == 2
    assert "args.json is damaged" in one_line(errors)


def test_the_papers_vanilla_networks_see_64x64(
    run: Run, few_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From training to the weights' own test; and a run from before they did is not gone on with."""
    network = ("--model", "vanilla_resnet18", "--dataset", "cifar10", "--data-dir", few_samples)
    arguments = (*network, "--recipe", "paper", "--epochs", 1, "--output-dir", tmp_path / "run")
    assert run(*arguments)[0] == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    model, description = models.load_run(tmp_path / "run")
    assert models.pretrained_cfg(model)["input_size"] == (3, 64, 64)
    reset_accelerate()
    assert evaluate.main([str(tmp_path / "run"), "--data-dir", str(few_samples)]) == 0
    assert f"{metrics['test_accuracy']:.2f} %" in capsys.readouterr().out

    del description.settings["side"]
    records.write(description, tmp_path / "run" / "args.json")
    assert models.pretrained_cfg(models.load_run(tmp_path / "run")[0])["input_size"] == (3, 32, 32)
    (tmp_path / "run" / "metrics.json").unlink()
    reset_accelerate()
    status, _, errors = run(*arguments, "--resume")
    assert status == 2
    assert "its side was null, now it is 64" in one_line(errors)


@pytest.mark.parametrize(("rows", "word"), [(1000, "train_images was 1667, now it is 833"), (2000, "data_sha256 was")])
def test_other_images_are_another_run(run: Run, finished: Path, tmp_path: Path, rows: int, word: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.copytree(SAMPLES / "mnist", tmp_path / "data" / "mnist")
    (file,) = (tmp_path / "data").rglob("train-*.parquet")
    table = pq.read_table(file)
    assert len(table) == 2000
    pq.write_table(pa.concat_tables([table[1:rows], table[:1]]), file)
    arguments = ("--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run", "--resume")
    status, _, errors = run(*SHORT, *arguments)
    assert status == 2
    assert word in one_line(errors)


def test_two_do_not_train_in_one_folder(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LAST_SAVE_SECONDS", 0.3)
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "metrics.json").unlink()
    with run_folder.alone(folder):
        status, output, errors = run(*SHORT, "--output-dir", folder, "--resume")
    assert status == 2
    assert f"another process trains in {folder}" in one_line(errors)
    assert "waiting for it" in output
    assert not (folder / "metrics.json").exists()
    assert run(*SHORT, "--output-dir", folder, "--resume")[0] == 0


def test_a_resumed_run_names_all_the_code_it_saw(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = json.loads((folder / "metrics.json").read_text())
    assert before["resumed_at_commits"] == []
    (folder / "metrics.json").unlink()
    monkeypatch.setattr(measure, "git_commit", lambda: "another")
    assert run(*SHORT, "--output-dir", folder, "--resume")[0] == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["git_commit"], metrics["resumed_at_commits"]) == (before["git_commit"], ["another"])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to tell of the launcher's end")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_end_of_the_launcher_is_the_end_of_the_run(tmp_path: Path, number: int) -> None:
    # `accelerate launch` without what Accelerate's other commands import, which takes seconds.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    folder = tmp_path / "run"
    what = [*map(str, TINY), "--epochs", "5000", "--output-dir", str(folder)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(CACHE), "ACCELERATE_USE_CPU": "true"}
    command = [*launcher, "tests/train/tiny_networks.py", *what]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=models.REPOSITORY, env=environment, stdout=output, stderr=output)
    end = time.monotonic() + 120
    while not (folder / "log.csv").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(60)
    with run_folder.alone(folder):  # waits until it has saved; it says so then
        end = time.monotonic() + 30
        while "the state is saved" not in (text := (tmp_path / "output").read_text()):
            assert time.monotonic() < end, text
            time.sleep(0.05)


def test_run_begun_by_an_older_version_can_be_resumed(run: Run, finished: Path, tmp_path: Path) -> None:
    """One whose description lacks a field that was added since."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "metrics.json").unlink()
    description = json.loads((folder / "args.json").read_text())
    del description["in_chans"]
    (folder / "args.json").write_text(json.dumps(description))
    status, _, errors = run(*SHORT, "--output-dir", folder, "--resume")
    assert (status, errors) == (0, "")
    assert models.load_run(folder)[0].conv1.in_channels == 1


@pytest.mark.usefixtures("no_pictures")
def test_overfit_learns_few_images_by_heart(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, output, errors = run(*TINY, "--overfit", 16, "--output-dir", folder)
    assert (status, errors) == (0, "")
    assert "To learn 16 images by heart: batches of 16, 250 epochs (250 steps)" in output
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["train_images"], metrics["validation_accuracy"]) == (16, 100)


@pytest.mark.usefixtures("no_pictures")
def test_the_seed_draws_the_weights_that_a_run_begins_with(run: Run, tmp_path: Path) -> None:
    begun = []
    for number, seed in enumerate((1, 2, 1)):
        arguments = ("--overfit", 16, "--epochs", 1, "--learning-rate", 1e-30, "--seed", seed)
        assert run(*TINY, *arguments, "--output-dir", tmp_path / str(number))[0] == 0
        begun.append(load_file(tmp_path / str(number) / "model.safetensors")["conv1.weight"])
    one, other, again = begun
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.usefixtures("no_pictures")
def test_each_process_draws_dropout_of_its_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def noted(*_: object, **__: object) -> None:
        drawn.append(torch.rand(1).item())
        raise LossError("enough")

    monkeypatch.setattr(loop.Run, "train", noted)
    for number in range(2):
        # What Accelerate adds to the seed; of these processes there is one each time.
        def index(_: object, number: int = number) -> int:
            return number

        monkeypatch.setattr(AcceleratorState, "process_index", property(index), raising=False)
        assert run(*TINY, "--overfit", 16, "--output-dir", tmp_path / str(number))[0] == 1
    assert drawn[0] != drawn[1]


def test_the_weights_of_the_best_epoch_are_kept(run: Run, tmp_path: Path, mnist: loading.Dataset) -> None:
    """At a rate that goes up to the end of the run, the last epoch is not the best."""
    folder = tmp_path / "run"
    arguments = ("--overfit", 200, "--epochs", 6, "--learning-rate", 3, "--seed", 1, "--output-dir", folder)
    status, output, _ = run(*TINY, *arguments)
    assert status == 0
    with (folder / "log.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    metrics = json.loads((folder / "metrics.json").read_text())
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    found = metrics["best"]
    assert (found["epoch"], found["validation_accuracy"]) == (best["epoch"], best["validation_accuracy"])
    reset_accelerate()
    model = models.create("tiny_net", "mnist", 10, 1, str(folder / "model.best.safetensors"))
    right = (evaluation.torch_outputs(model.eval(), mnist.test).argmax(1) == mnist.test.labels.numpy()).mean()
    assert found["test_accuracy"] == pytest.approx(100 * right, abs=0.01)
    better = found["validation_accuracy"] > metrics["validation_accuracy"]
    assert ("Best epoch on validation" in output) == better


def test_a_run_that_diverges_stops(run: Run, tmp_path: Path) -> None:
    arguments = ("--mixed-precision", "no", "--learning-rate", 30, "--epochs", 2)
    status, _, errors = run(*TINY, *arguments, "--output-dir", tmp_path / "run")
    assert status == 1
    assert "diverged" in one_line(errors)
    assert "--learning-rate below 30" in errors


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("place", ["make_accelerator", "split_logits"])
def test_ctrl_c_at_the_start_or_the_end_is_no_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = ("--overfit", 16, "--epochs", 2, "--output-dir", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(fitting, place, pressed)
        status, _, errors = run(*TINY, *arguments)
    assert status == 130
    assert "interrupted" in one_line(errors)
    assert not (tmp_path / "run" / ".lock").exists()
    assert run(*TINY, *arguments, "--resume")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what the process has loaded")
def test_ctrl_c_while_the_libraries_are_imported_is_no_traceback(tmp_path: Path) -> None:
    # A shell has its background ignore Ctrl-C, and all that is started there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "train/fit.py", "--help"], cwd=models.REPOSITORY, stdout=output, stderr=output
        )
    signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 120
    while b"libtorch" not in Path(f"/proc/{process.pid}/maps").read_bytes() and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (-signal.SIGINT, 130)
    assert (tmp_path / "output").read_text() == ""


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("error", "why", "words"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), FULL, FULL),
        (SafetensorError("Error while serializing: I/O error"), FULL, FULL),
        (OSError(errno.ENOSPC, FULL), None, FULL),  # space was freed in the meantime
        (PermissionError(errno.EACCES, "Permission denied"), None, "Permission denied"),
        (RuntimeError("CUDA error"), None, "CUDA error"),
    ],
)
def test_a_full_disk_is_named(
    error: Exception, why: str | None, words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "why_unwritable", lambda _: why)
    monkeypatch.setattr(accelerate.Accelerator, "save_state", fail)
    status, _, errors = run(*TINY, "--overfit", 16, "--epochs", 1, "--output-dir", tmp_path / "run")
    assert status == 1
    assert words in one_line(errors)


@pytest.mark.usefixtures("no_pictures")
def test_a_disk_that_is_full_at_the_end_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(fitting, "save_model", fail)
    monkeypatch.setattr(fitting, "why_unwritable", lambda _: FULL)
    status, _, errors = run(*TINY, "--overfit", 16, "--epochs", 1, "--output-dir", tmp_path / "run")
    assert status == 1
    assert "cannot write" in one_line(errors)
    assert FULL in errors


@pytest.mark.parametrize("epochs", [1, 3])
def test_few_epochs_are_drawn_by_their_steps(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _: drawn.append(len(figure.axes[0].lines)))
    row = {"train_loss": 1.0, "validation_loss": 1.0, "train_accuracy": 50.0, "validation_accuracy": 50.0}
    rows = [row | {"epoch": float(epoch + 1)} for epoch in range(epochs)]
    plots.curves(rows, "a run", tmp_path / "curves.png", [{"epoch": 0.5, "train_loss": 1.2}])
    assert drawn == [3 if epochs < 3 else 2]


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path: Path) -> None:
    """The real network, by the real launcher, on the shipped images."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1"]
    what = ["--model", "improved_resnet18", "--dataset", "mnist", "--data-dir", "train/samples", "--epochs", "1"]
    what += ["--learning-rate", "0.03"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(CACHE)}
    done = subprocess.run(
        [*launcher, "train/fit.py", *what, "--output-dir", str(tmp_path / "run")],
        cwd=models.REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {
        "args.json", "log.csv", "steps.csv", "metrics.json", "model.safetensors", "model.best.safetensors", "states",
        "curves.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["parameters"] > 5e6
