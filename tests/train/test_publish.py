"""From a run folder to a published model: what is stored, what is refused, and what a failure leaves."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import SAMPLES, torch_logits
from safetensors.torch import load_file
from torch import nn

from train import evaluate, export, publish, records
from train.cards import checks, model_card, publishing
from train.cards.compact import compact
from train.data import loading, reference
from train.onnx_export import build, quantize, runtime
from train.paper import paper
from train.training import models


def test_the_folder_is_complete(card: Path) -> None:
    written = (
        "README.md config.json confusion_matrix.png curves.png log.csv metrics.json model.safetensors reliability.png"
    )
    expected = sorted([*written.split(), "model.onnx", "model.int8.onnx", "model.int8-amx.onnx"])
    assert sorted(path.name for path in card.iterdir()) == expected
    assert card.stat().st_mode & 0o777 == card.parent.stat().st_mode & 0o777 | 0o055
    assert not list(card.parent.glob(".publishing-*"))


def test_names_of_classes_are_the_datasets_and_given_once(card: Path, dataset: loading.Dataset) -> None:
    """Those of the architecture's default dataset are left out, although there are as many."""
    config = json.loads((card / "config.json").read_text())
    assert config["label_names"] == list(dataset.class_names)
    assert "label_names" not in config["pretrained_cfg"]
    model = timm.create_model(f"local-dir:{card}", pretrained=True)
    assert models.pretrained_cfg(model)["label_names"] == list(dataset.class_names)


def test_torch_local_dir_and_onnx_agree(card: Path, run_folder: Path, dataset: loading.Dataset) -> None:
    """On 1,000 real test images; from the run's own weights they differ by half precision alone."""
    images = dataset.test.images
    assert len(images) == 1000
    logits = torch_logits(timm.create_model(f"local-dir:{card}", pretrained=True), images)
    found = runtime.predict(card / "model.onnx", images)
    assert np.abs(found - logits).max() < 1e-3
    assert (found.argmax(1) == logits.argmax(1)).all()
    trained = torch_logits(models.load_run(run_folder)[0], images)
    assert 0 < np.abs(trained - logits).max() < 0.05
    int8 = runtime.predict(card / "model.int8.onnx", images)
    assert np.mean(int8.argmax(1) == logits.argmax(1)) > 0.95
    assert np.abs(int8 - logits).max() > 1e-3  # it is another network


def test_stored_weights_are_half_precision_matrices(card: Path, run_folder: Path) -> None:
    trained, stored = (load_file(folder / "model.safetensors") for folder in (run_folder, card))
    assert trained.keys() == stored.keys()
    for name, tensor in stored.items():
        expected = trained[name].half() if trained[name].ndim > 1 else trained[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name


def test_publish_warns_of_broken_bounds(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((twin / "metrics.json").read_text())
    metrics |= {"trained_test_accuracy": metrics["test_accuracy"] + 0.3}
    metrics["onnx_test_accuracy"] |= {"int8": metrics["onnx_test_accuracy"]["fp32"] - 0.4}
    (twin / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(publishing, "publish", lambda *_: twin)
    assert publish.main(["run"]) == 0
    weights, int8 = capsys.readouterr().err.splitlines()
    assert (
        weights == "publish.py: WARNING: storing the weights changed the test accuracy by -0.30 points, more than 0.05"
    )
    assert int8 == "publish.py: WARNING: int8 changed the test accuracy by -0.40 points, not -0.2 to 0.5"


def test_a_card_states_what_its_run_had_before_storing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nothing would show what storing the weights costs."""
    names = list(json.loads((run_folder / "metrics.json").read_text())["per_class_accuracy"])
    found = records.Published(
        test_accuracy=50.0,
        test_images=100,
        per_class_accuracy=dict.fromkeys(names, 50.0),
        confusion_matrix=[[1] * 10] * 10,
        onnx_test_accuracy={"fp32": 50.0, "int8": 50.0},
        safetensors_sha256="ab",
        parameters=1,
    )
    monkeypatch.setattr(build, "export", lambda _: iter(()))
    monkeypatch.setattr(build, "state_accuracies", lambda _: None)
    monkeypatch.setattr(checks, "measured", lambda *_: found)
    monkeypatch.setattr(model_card, "render", lambda _: "")
    card = publishing.publish(run_folder, tmp_path / "card", SAMPLES, False, paper.accuracy)
    trained, stated = (json.loads((folder / "metrics.json").read_text()) for folder in (run_folder, card))
    assert trained["test_accuracy"] != 50
    assert (stated["test_accuracy"], stated["trained_test_accuracy"]) == (50.0, trained["test_accuracy"])
    assert stated["validation_accuracy"] == trained["validation_accuracy"]


def test_nothing_is_fitted_on_the_test_split(
    run_folder: Path, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other test images and labels leave the calibration as it was; other validation labels do not."""
    real = loading.load

    def published(changed: str, name: str) -> dict[str, Any]:
        def load(*arguments: Any) -> loading.Dataset:
            dataset = real(*arguments)
            split = getattr(dataset, changed)
            other = loading.Split(255 - split.images, (split.labels + 1) % len(dataset.class_names))
            splits: dict[str, Any] = {changed: other}
            return dataclasses.replace(dataset, **splits)

        with monkeypatch.context() as patched:
            patched.setattr(loading, "load", load)
            patched.setattr(build, "export", lambda _: None)
            patched.setattr(build, "state_accuracies", lambda _: None)
            patched.setattr(checks, "measured", lambda *_: stated)
            patched.setattr(model_card, "render", lambda _: "")
            folder = publishing.publish(run_folder, tmp_path / name, SAMPLES, False, paper.accuracy)
        found: dict[str, Any] = json.loads((folder / "config.json").read_text())
        assert found.items() >= records.as_dict(records.read(records.FittedNumbers, folder / "metrics.json")).items()
        return found

    stated = records.read(records.Published, card / "metrics.json")
    truth = json.loads((card / "config.json").read_text())
    assert truth["temperature"] != 1
    assert published("test", "first") == truth
    other = published("validation", "second")
    assert all(other[name] != truth[name] for name in ("temperature", "familiarity"))


@pytest.mark.usefixtures("no_onnx")
def test_failed_publish_leaves_the_old_card(card: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in card.iterdir()}

    before = contents()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_card, "render", fail)
    with pytest.raises(OSError, match="No space left"):
        publishing.publish(run_folder, card, SAMPLES, False, paper.accuracy)
    assert contents() == before
    assert not list(card.parent.glob(".publishing-*"))


def test_a_card_that_cannot_take_its_place_leaves_the_old_one(
    twin: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in twin.iterdir()}
    replace = Path.replace

    def fail(source: Path, target: Path) -> Path:
        if Path(target) == twin and source.name == twin.name:
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(publishing, "_write", lambda folder, *_: (folder / "config.json").write_text("{}"))
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        publishing.publish(run_folder, twin, SAMPLES, False, paper.accuracy)
    assert {path.name: path.read_bytes() for path in twin.iterdir()} == before
    assert not list(twin.parent.glob(".publishing-*"))


def test_only_a_card_is_replaced(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publishing, "_write", lambda folder, *_: (folder / "written").touch())
    before = sorted(run_folder.rglob("*"))
    file, other, empty = tmp_path / "file", tmp_path / "other", tmp_path / "empty"
    file.touch()
    other.mkdir()
    (other / "config.json").touch()
    empty.mkdir()
    for target, reason in (
        (run_folder, "is the run itself"),
        (run_folder / "states" / "..", "is the run itself"),
        (run_folder.parent, "is not empty and holds no card"),
        (other, "is not empty and holds no card"),
        (file, "is not empty and holds no card"),
    ):
        assert publish.main([str(run_folder), "--data-dir", str(SAMPLES), "--output-dir", str(target)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{target.resolve()} {reason}: choose another --output-dir" in line
    assert sorted(run_folder.rglob("*")) == before
    assert (other / "config.json").exists()
    (other / "model.safetensors").touch()  # a card now
    for target in (empty, other, tmp_path / "new"):
        publishing.publish(run_folder, target, SAMPLES, False, paper.accuracy)
        assert [path.name for path in target.iterdir()] == ["written"]


def test_a_folder_named_like_a_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(reference.DataError, match="would be taken for the dataset 'mnist'"):
        publishing.dataset_name(str(tmp_path / "mnist"))
    assert publishing.dataset_name("mnist") == "mnist"
    assert publishing.dataset_name("owner/name") == "owner/name"
    assert publishing.dataset_name(f"{tmp_path}/") == tmp_path.name


def test_another_dataset_of_the_same_name_has_another_tag() -> None:
    """Otherwise its weights would replace the published ones."""
    assert {
        name: reference.recorded(name).tag
        for name in ("cifar10", "owner/cifar10", "owner/name", "owner/name:conf", "bees")
    } == {
        "cifar10": "cifar10",
        "owner/cifar10": "owner-cifar10",
        "owner/name": "name",
        "owner/name:conf": "name-conf",
        "bees": "bees",
    }


@pytest.mark.parametrize("run_folder", ["mnist"], indirect=True)
def test_sigterm_removes_an_unfinished_card(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def stopped(folder: Path, *_: object) -> None:
        (folder / "begun").touch()
        begun.extend(tmp_path.glob(".publishing-*/*/begun"))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(publishing, "_write", stopped)
    before = signal.getsignal(signal.SIGTERM)
    # Without a handler of the command's own, this one would fail the test; the default would end all tests.
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not handled"))
    try:
        with pytest.raises(SystemExit) as end:
            publish.main([str(run_folder), "--data-dir", str(SAMPLES), "--output-dir", str(tmp_path / "card")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    assert len(begun) == 1
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_are_of_all_classes() -> None:
    labels = torch.arange(10).repeat_interleave(70)
    training = loading.Split(labels.view(-1, 1, 1, 1).to(torch.uint8), labels)  # class by class, as a folder comes
    found = quantize.calibration_images("pictures", training, 500)
    assert len(found) == 500
    assert found.unique().tolist() == list(range(10))
    found = quantize.calibration_images("pictures", training, 100)
    assert len(found) == 100
    assert found.unique().tolist() == list(range(10))
    assert torch.equal(quantize.calibration_images("pictures", training, 1000), training.images)
    assert torch.equal(quantize.calibration_images("mnist", training, 100), training.images[:100])


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (publish.main, ["/no/such/run"], ["/no/such/run", "args.json"]),
        (evaluate.main, ["no_such_model"], ["'no_such_model'", "published"]),
        (export.main, ["no_such_model"], ["'no_such_model'", "published"]),
    ],
)
def test_mistakes_get_one_line(
    main: Callable[[list[str]], int], arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words)


def test_unfinished_run_cannot_be_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "args.json").write_text("{}")
    assert publish.main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_weights_too_large_for_half_precision_are_refused() -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 1e6)
    with pytest.raises(ValueError, match=r"weight does not fit half precision.*--full-precision"):
        compact(model, torch.zeros(0))
