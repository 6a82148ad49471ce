"""Measuring a card again: `verify.py` and `evaluate.py` against what the card states."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import SAMPLES

from train import evaluate, export, records, verify
from train.cards import checks
from train.onnx_export import metadata
from train.paper import paper
from train.training import models, recipes
from train.training.results import plots
from train.training.runs import epoch_log
from zoo.compact import expand


def broken_bounds(metrics: dict[str, Any]) -> list[str]:
    """The bounds of publishing that a card of 1,000 test images breaks: one image, 0.1 points, is always allowed."""
    onnx = metrics["onnx_test_accuracy"]
    stored = metrics["test_accuracy"] - metrics["trained_test_accuracy"]
    gained = onnx["int8"] - onnx["fp32"]
    lines = []
    if round(abs(stored), 4) > 0.1:
        lines.append(f"storing the weights changed the test accuracy by {stored:+.2f} points, more than 0.05")
    if not -0.2 <= round(gained, 4) <= 0.5:
        lines.append(f"int8 changed the test accuracy by {gained:+.2f} points, not -0.2 to 0.5")
    return lines


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"test_accuracy": 90.05}, []),
        ({"test_accuracy": 89.94}, ["storing the weights changed the test accuracy by -0.06 points, more than 0.05"]),
        ({"test_accuracy": 90.06}, ["storing the weights changed the test accuracy by +0.06 points, more than 0.05"]),
        ({"test_accuracy": 90.1, "test_images": 1000}, []),
        ({"onnx_test_accuracy": {"fp32": 90.0, "int8": 89.8}}, []),
        (
            {"onnx_test_accuracy": {"fp32": 90.0, "int8": 89.79}},
            ["int8 changed the test accuracy by -0.21 points, not -0.2 to 0.5"],
        ),
        ({"onnx_test_accuracy": {"fp32": 90.0, "int8": 90.5}}, []),
        (
            {"onnx_test_accuracy": {"fp32": 90.0, "int8": 90.51}},
            ["int8 changed the test accuracy by +0.51 points, not -0.2 to 0.5"],
        ),
    ],
)
def test_publishing_may_change_the_accuracy_within_bounds(changes: dict[str, Any], lines: list[str]) -> None:
    truth = records.read(records.CardMetrics, models.card("improved_googlenet.mnist") / "metrics.json")
    plain: dict[str, Any] = {"test_images": 10_000, "test_accuracy": 90.0, "trained_test_accuracy": 90.0}
    plain["onnx_test_accuracy"] = {"fp32": 90.0, "int8": 90.0}
    assert list(checks.broken_bounds(dataclasses.replace(truth, **(plain | changes)))) == lines


def test_update_writes_the_accuracies_of_the_onnx_files(twin: Path) -> None:
    truth = json.loads((twin / "metrics.json").read_text())
    stated = json.loads((twin / "metrics.json").read_text())
    for metrics in (stated, stated["samples"]):
        metrics["onnx_test_accuracy"] = {"fp32": 1.0, "int8": 2.0}
    (twin / "metrics.json").write_text(json.dumps(stated))
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 0
    assert json.loads((twin / "metrics.json").read_text()) == truth
    assert not metadata.outdated(twin)
    found = list(checks.differences(twin, SAMPLES, samples=False, reported=paper.accuracy))
    assert found == broken_bounds(truth)


def test_update_keeps_the_metrics_of_the_weights(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lie = json.loads((twin / "metrics.json").read_text()) | {"test_accuracy": 99.9, "safetensors_sha256": "other"}
    (twin / "metrics.json").write_text(json.dumps(lie))
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 0
    assert json.loads((twin / "metrics.json").read_text()) == lie
    (twin / "log.csv").unlink()
    capsys.readouterr()
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 2
    assert capsys.readouterr().err == f"verify.py: {twin.name}: log.csv missing\n"


def test_verify_measures_the_whole_test_split(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verified() -> tuple[int, str]:
        capsys.readouterr()
        status = verify.main([str(twin), "--data-dir", str(SAMPLES)])
        return status, capsys.readouterr().out

    truth = json.loads((twin / "metrics.json").read_text())
    bounds = broken_bounds(truth)  # a network of two epochs may break them
    assert verified() == (1 if bounds else 0, f"{twin.name}: {'; '.join(bounds) or 'as stated'}\n")
    config = json.loads((twin / "config.json").read_text())
    moved = config["familiarity"] | {"unknown_above": 1.2 * config["familiarity"]["unknown_above"] + 10}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metadata, "differing", lambda *_: [])  # as if the ONNX files were built from this
        for other, words in ((moved, "familiarity: unknown_above not as the"), (None, "familiarity is fitted by the")):
            (twin / "config.json").write_text(json.dumps(config | {"familiarity": other}))
            status, text = verified()
            assert status == 1
            assert words in text
    (twin / "config.json").write_text(json.dumps(config))
    confusion = np.array(truth["confusion_matrix"])
    confusion[:, [0, 1]] = confusion[:, [1, 0]]
    (twin / "metrics.json").write_text(json.dumps(truth | {"confusion_matrix": confusion.tolist()}))
    status, text = verified()
    assert status == 1
    assert "the confusion matrix differs from the card's" in text
    assert "the card's accuracy does not follow from its own confusion matrix" in text


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "metrics.json",
            {"model": "improved_googlenet"},
            "the network is tiny_net, the card states improved_googlenet",
        ),
        ("metrics.json", {"dataset": "owner/imagenet"}, "the card states owner/imagenet"),
        ("metrics.json", {"settings": {"learning_rate": 0.9}}, "the learning rate of epoch 1 is"),
        ("metrics.json", {"settings": {"schedule": "fixed"}}, "the learning rate of epoch 1 is"),
        ("config.json", {"pretrained_cfg": {"crop_pct": 0.7}}, "crop_pct is 0.7 in config.json"),
        ("config.json", {"pretrained_cfg": {"interpolation": "bicubic"}}, "interpolation is 'bicubic' in config.json"),
        ("config.json", {"familiarity": {"unknown_above": -1e9}}, "coverage with fp32 is 0"),
        ("config.json", {"familiarity": {"unknown_above": float("inf")}}, "familiarity: unknown_above is inf"),
        ("config.json", {"familiarity": {"means": [[0.0]]}}, "familiarity: the means are not of 10 classes"),
        ("config.json", {"familiarity": {"deviations": [[0.0] * 10] * 10}}, "deviations are not all finite and above"),
        ("metrics.json", {"test_images": None}, "damaged"),
        ("metrics.json", {"samples": None}, "damaged"),
    ],
)
def test_lies_are_found(
    twin: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    content = json.loads((twin / file).read_text())
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    (twin / file).write_text(json.dumps(content))
    monkeypatch.setattr(metadata, "differing", lambda *_: [])  # as if the ONNX files were built from this
    capsys.readouterr()
    assert verify.main([str(twin), "--samples"]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("file", "key"), [("metrics.json", "epochs"), ("config.json", "label_names")])
def test_a_missing_key_is_named(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, key: str
) -> None:
    content = json.loads((twin / file).read_text())
    del content[key]
    (twin / file).write_text(json.dumps(content))
    monkeypatch.setattr(metadata, "differing", lambda *_: [])
    capsys.readouterr()
    assert verify.main([str(twin), "--samples"]) == 1
    assert capsys.readouterr().out == f"{twin.name}: {twin / file} has no {key!r}\n"


def test_lies_of_the_training_that_agree_with_each_other_are_found(tmp_path: Path) -> None:
    card = models.card("improved_googlenet.mnist")
    truth, log = records.read(records.CardMetrics, card / "metrics.json"), card / "log.csv"
    assert list(checks.of_training(truth, log, paper.accuracy)) == []
    n = truth.train_images
    lie = dataclasses.replace(truth, train_images=n - 1)
    assert list(checks.of_training(lie, log, paper.accuracy)) == [
        f"an epoch has {n} images by log.csv, the card states {n - 1}"
    ]

    # At a constant rate no epoch shows how many were planned.
    epoch_log.write([row | {"learning_rate": 0.001} for row in epoch_log.read(log)], tmp_path / "log.csv")
    settings = recipes.as_settings(recipes.PAPER_VANILLA) | {"batch_size": truth.settings["batch_size"]}
    lie = dataclasses.replace(truth, settings=settings)
    words = f"the recipe has 50 epochs, the card states {truth.epochs}"
    assert list(checks.of_training(lie, tmp_path / "log.csv", paper.accuracy)) == [words]


def test_a_folder_named_like_a_dataset_is_not_taken_for_it() -> None:
    card = models.card("improved_googlenet.mnist")
    metrics = records.read(records.CardMetrics, card / "metrics.json")
    config = records.read(records.CardConfig, card / "config.json")
    found = list(checks._wrong_identity(metrics, dataclasses.replace(config, dataset="/pictures/mnist")))
    assert found == ["the dataset is /pictures/mnist, the card states mnist"]


def test_the_exit_status_is_that_of_the_worst_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def differences(folder: Path, *_: object) -> list[str]:
        if folder.name == "lost":
            raise models.ModelError("lost")
        return ["a lie"] if folder.name == "lies" else []

    monkeypatch.setattr(models, "card", Path)
    monkeypatch.setattr(checks, "differences", differences)
    for names, status in (
        (["good"], 0),
        (["good", "lies"], 1),
        (["lies", "good"], 1),
        (["lost", "good"], 2),
        (["lost", "lies", "good"], 2),
        (["lies", "lost", "good"], 2),
    ):
        assert verify.main(names) == status, names


def test_a_damaged_card_does_not_keep_others_from_being_checked(
    twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(twin, tmp_path / "other" / twin.name))
    (other / "metrics.json").write_text((other / "metrics.json").read_text()[:100])
    (other / "curves.png").unlink()
    verify.main([str(other), str(twin), "--samples"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{twin.name}: curves.png missing"
    assert len(lines) == 2
    shutil.copy(twin / "curves.png", other)
    verify.main([str(other), str(twin), "--samples"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{twin.name}: ")
    assert "metrics.json is damaged" in lines[0]
    assert len(lines) == 2


def test_half_a_weight_is_named(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the compact form of the networks of `zoo`."""
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: expand({"fc.weight.int8": torch.zeros(1)}))
    assert evaluate.main([str(twin), "--data-dir", str(SAMPLES)]) == 2
    assert "its weights lack 'fc.weight.scale'" in capsys.readouterr().err


def test_evaluate_prints_what_the_card_states(card: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    capsys.readouterr()
    assert evaluate.main([str(card), "--data-dir", str(SAMPLES), "--output-dir", str(tmp_path)]) == 0
    line, others, *classes = capsys.readouterr().out.splitlines()
    assert f"{card.name}: test accuracy {metrics['test_accuracy']:.2f} % on 1,000 images" in line
    assert f"macro F1 {metrics['macro_f1']:.2f} %" in others
    assert f"top-5 accuracy {metrics['top5_accuracy']:.2f} %" in others
    for (label, accuracy), printed in zip(metrics["per_class_accuracy"].items(), classes, strict=False):
        assert printed.split() == [label, f"{accuracy:.2f}", "%"]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["confusion_matrix"] == metrics["confusion_matrix"]
    written = {path.name for path in tmp_path.iterdir()}
    plots = {"per_class.png", "confusion_matrix.png", "mistakes.png", "components.png", "curves.png"}
    assert written == {"figures.json", *plots}
    assert [row["epoch"] for row in found["log"]] == list(range(1, metrics["epochs"] + 1))
    (tmp_path / "file").touch()
    assert evaluate.main([str(card), "--data-dir", str(SAMPLES), "--output-dir", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_dollars_in_names_are_no_mathematics(tmp_path: Path) -> None:
    title, names, file = "$5_and_$", ["a$_$b", "$^$"], tmp_path / "picture.png"
    log = [{f"{split}_{what}": 1.0 for split in plots.COLOURS for what in ("loss", "accuracy")} | {"epoch": 1}]
    labels = np.array([0, 1])
    for draw, *arguments in (
        (plots.curves, log, title),
        (plots.class_accuracies, {title: {title: dict.fromkeys(names, 50.0)}}, title),
        (plots.confusion_matrix, np.eye(2, dtype=int), names, title),
        (plots.mistakes, np.zeros((2, 8, 8, 3), np.uint8), labels, 1 - labels, names, title),
        (plots.components, np.eye(2), labels, names, title),
    ):
        call: Any = draw  # their parameters differ
        call(*arguments, file)
        assert file.stat().st_size > 1000
        file.unlink()


@pytest.mark.parametrize(("runtime", "precision"), [("onnx", "fp32"), ("onnx-int8", "int8")])
def test_evaluate_with_onnx(card: Path, capsys: pytest.CaptureFixture[str], runtime: str, precision: str) -> None:
    stated = json.loads((card / "metrics.json").read_text())["onnx_test_accuracy"][precision]
    capsys.readouterr()
    assert evaluate.main([str(card), "--data-dir", str(SAMPLES), "--runtime", runtime]) == 0
    assert f"test accuracy {stated:.2f} %" in capsys.readouterr().out


def test_verify_and_export_of_own_pictures(own_card: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    assert verify.main(["--samples", str(own_card)]) == 0
    line = f"{own_card.name}: not checked, as the project ships no images of its dataset\n"
    assert capsys.readouterr().out == line
    assert verify.main([str(own_card)]) == 0
    assert capsys.readouterr().out == f"{own_card.name}: as stated\n"

    elsewhere = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    config = (elsewhere / "config.json").read_text().replace(str(own_card.parent), "/no/such")
    (elsewhere / "config.json").write_text(config)
    assert export.main([str(elsewhere)]) == 1
    assert "no folder '/no/such/my insects' here" in capsys.readouterr().err
    assert verify.main([str(elsewhere)]) == 2
    assert "no folder '/no/such/my insects' here" in capsys.readouterr().err
