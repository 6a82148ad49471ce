"""The committed models are what their cards say they are."""

import copy
import dataclasses
import json
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch import nn

from serve.engine.models import load
from serve.settings import Settings
from train import records, verify
from train.cards import checks, evaluation, robustness
from train.cards.model_card import render
from train.cards.robustness import SAMPLED
from train.data import loading
from train.files import FileError
from train.onnx_export import build, metadata, runtime
from train.paper import paper
from train.training import arguments, models, recipes
from zoo.catalog import DATASETS

CARDS = models.cards()
# Those of the paper's six networks on its two datasets.
TWELVE = [card for card in CARDS if card.name.partition(".")[0] in paper.MODELS]


# With several processes, one of them runs all tests of a card.
ONCE = [pytest.param(card, marks=pytest.mark.xdist_group(card.name)) for card in CARDS]


@pytest.fixture(scope="session", params=ONCE, ids=lambda card: card.name)
def card(request: pytest.FixtureRequest) -> Path:
    """Each published model's folder, with its ONNX files."""
    if metadata.outdated(request.param):
        for _ in build.export(request.param):
            pass
    return request.param


@pytest.fixture(scope="session")
def shipped(card: Path) -> loading.Dataset:
    """The images of its dataset that ship with the project."""
    return loading.load(json.loads((card / "config.json").read_text())["dataset"], build.SAMPLES)


@pytest.fixture(scope="session")
def loaded(card: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Its network, by local-dir:, and its config.json; loaded once, as a VGG takes seconds."""
    return models.load_card(card)


# The fp32 file computes what the weights do, sooner: an improved VGG16 takes 12 s for 1,000 images instead of 17. So
# the weights are run on some, and on all in test_weights_and_fp32_agree_on_all_shipped_images.
SOME = 40


@pytest.fixture(scope="session")
def outputs(card: Path, loaded: tuple[nn.Module, Any], shipped: loading.Dataset) -> dict[str, np.ndarray]:
    """The logits of its weights and ONNX files for the shipped test images, computed once.

    Those of the weights beyond the first `SOME` are fp32's.
    """
    assert len(shipped.test) == 1000
    fp32, int8 = (runtime.predict(card / metadata.FILES[name], shipped.test.images) for name in ("fp32", "int8"))
    weights = evaluation.torch_outputs(loaded[0], shipped.test.take(slice(SOME)))
    return {"torch": np.concatenate([weights, fp32[SOME:]]), "fp32": fp32, "int8": int8}


@pytest.fixture
def computed(loaded: tuple[nn.Module, Any], outputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification uses `loaded` and `outputs` instead of loading and computing them again."""
    monkeypatch.setattr(models, "load_card", lambda _: loaded)
    monkeypatch.setattr(checks, "outputs", lambda *_: outputs)


@pytest.fixture
def twin(card: Path, tmp_path: Path) -> Path:
    """A copy of a card, to be falsified."""
    folder = tmp_path / card.name
    return Path(shutil.copytree(card, folder, copy_function=lambda source, target: Path(target).symlink_to(source)))


def rewrite(file: Path, value: Any) -> None:
    """Replace a link to a published file by a file of its own."""
    file.unlink()
    file.write_text(json.dumps(value))


def test_promised_models_are_published() -> None:
    accuracy = {card.name: json.loads((card / "metrics.json").read_text())["test_accuracy"] for card in TWELVE}
    assert accuracy["improved_googlenet.mnist"] >= 99.4
    assert accuracy["improved_googlenet.cifar10"] >= 93
    assert accuracy["improved_resnet18.cifar10"] >= 93
    assert accuracy["vanilla_resnet18.cifar10"] >= 85
    assert accuracy["vanilla_googlenet.cifar10"] >= 88.15
    assert accuracy["vanilla_resnet18.mnist"] >= 99.5
    assert accuracy["improved_resnet18.mnist"] >= 99.7
    assert accuracy["vanilla_googlenet.mnist"] >= 99.5
    assert accuracy["improved_vgg16.mnist"] >= 99.7
    assert accuracy["improved_vgg16.cifar10"] >= 94
    assert accuracy["vanilla_vgg16.mnist"] >= 99.5
    assert accuracy["vanilla_vgg16.cifar10"] >= 88
    assert len(accuracy) == 12
    published = {name for name in timm.list_pretrained() if name in accuracy}
    assert published == set(accuracy)


def test_weights_fit_their_budget() -> None:
    sizes = [(card / "model.safetensors").stat().st_size for card in TWELVE]
    assert sum(sizes) < 160e6
    assert max(sizes) < 40e6


@pytest.mark.usefixtures("computed")
def test_every_number_of_the_card_is_true(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the corruptions that verification measures again, each card has its turn with one; a VGG16 takes too long."""
    turn = 2 if "vgg16" in card.name else CARDS.index(card) // 2 % 2
    monkeypatch.setattr(robustness, "SAMPLED", {name: both[turn : turn + 1] for name, both in SAMPLED.items()})
    assert list(checks.differences(card, None, samples=True, reported=paper.accuracy)) == []


@pytest.mark.slow
def test_the_card_tells_the_truth_about_corrupted_images(card: Path) -> None:
    metrics = records.read(records.CardMetrics, card / "metrics.json")
    config = records.read(records.CardConfig, card / "config.json")
    assert list(robustness.differences(card, metrics, config)) == []


def test_publishing_cost_little(card: Path) -> None:
    """Storing the weights at most 0.05 points, int8 at most 0.2."""
    metrics = records.read(records.CardMetrics, card / "metrics.json")
    onnx = metrics.onnx_test_accuracy
    assert abs(metrics.test_accuracy - metrics.trained_test_accuracy) < 0.051
    assert onnx["int8"] > onnx["fp32"] - 0.201
    assert list(checks.broken_bounds(metrics)) == []
    changed = dataclasses.replace(metrics, trained_test_accuracy=metrics.test_accuracy + 0.06)
    assert list(checks.broken_bounds(changed))
    changed = dataclasses.replace(metrics, onnx_test_accuracy=onnx | {"int8": onnx["fp32"] - 0.21})
    assert list(checks.broken_bounds(changed))


def less(value: float) -> float:
    return value - 0.3


def nan(_: float) -> float:
    return math.nan


def one_less(matrix: list[list[int]]) -> list[list[int]]:
    """One image less is right."""
    matrix = copy.deepcopy(matrix)
    matrix[0][0] -= 1
    matrix[0][1] += 1
    return matrix


def swapped(matrix: list[list[int]]) -> list[list[int]]:
    """One image of another class: as many are right as before."""
    matrix = copy.deepcopy(matrix)
    matrix[0][0] -= 1
    matrix[1][1] += 1
    return matrix


def names_reversed(values: dict[str, float]) -> dict[str, float]:
    return dict(zip(reversed(values), values.values(), strict=True))


# Numbers of metrics.json, by their path, and a false value for each.
LIES: list[tuple[str, Callable[[Any], Any]]] = [
    *((name, lie) for name in ("test_accuracy", "samples.test_accuracy") for lie in (less, nan)),
    *(("onnx_test_accuracy.fp32", lie) for lie in (less, nan)),
    # For int8 on the complete test split, the shipped images only show that it is near fp32.
    *(("onnx_test_accuracy.int8", lie) for lie in (lambda x: x - 0.9, lambda x: x + 0.9, nan)),
    *((f"samples.onnx_test_accuracy.{precision}", lambda x: x - 0.5) for precision in ("fp32", "int8")),
    ("test_images", lambda x: x + 1),
    ("samples.test_images", lambda x: x + 1),
    ("per_class_accuracy", names_reversed),
    ("per_class_accuracy", lambda values: dict.fromkeys(values, 99.9)),
    ("per_class_accuracy", lambda values: dict.fromkeys(values, math.nan)),
    ("samples.per_class_accuracy", names_reversed),
    ("confusion_matrix", one_less),
    ("confusion_matrix", lambda matrix: matrix[:-1]),
    ("confusion_matrix", lambda matrix: matrix[::-1]),
    ("samples.confusion_matrix", swapped),
    *((name, lambda x: x + 0.1) for name in ("temperature", "curvature", "abstain_below", "abstain_target")),
    *((name, nan) for name in ("temperature", "curvature", "abstain_below", "abstain_target")),
    *(
        (f"{part}calibration.{name}", lambda x: x + 0.01)
        for part in ("", "samples.")
        for name in ("ece", "ece_uncalibrated")
    ),
    *(
        (f"samples.calibration.{name}", lambda x: x - 0.05)
        for name in ("nll", "brier", "coverage", "accuracy_covered", "int8.ece", "int8.nll", "int8.coverage")
    ),
    ("samples.calibration.nll", nan),
    ("calibration.reliability", lambda bins: bins[:-1]),
    ("samples.calibration.reliability_uncalibrated", lambda bins: bins[1:]),
    ("safetensors_sha256", lambda _: "0" * 64),
    ("parameters", lambda x: x + 1),
    ("samples.parameters", lambda x: x + 1),
    *((name, lambda _: 99.99) for name in ("validation_accuracy", "train_accuracy", "trained_test_accuracy")),
    *((name, nan) for name in ("validation_accuracy", "train_accuracy", "trained_test_accuracy")),
    ("paper_test_accuracy", lambda x: (x or 100.0) - 1),  # None for a network that the paper has not
    ("epochs", lambda x: x - 1),
    ("settings.epochs", lambda x: x - 1),
    ("train_images", lambda x: x - 1),
    ("train_seconds", lambda x: x / 2),
    ("images_per_second", lambda x: x * 2),
]


@pytest.mark.usefixtures("computed")
def test_lies_are_noticed(card: Path, shipped: loading.Dataset, twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the shipped images alone; the README.md and the ONNX files repeat the lies. Every lie is told of two cards."""
    measured = checks.measured(card, shipped)
    monkeypatch.setattr(checks, "measured", lambda *_: measured)
    monkeypatch.setattr("train.cards.robustness.differences", lambda *_: [])  # tests/train/cards/test_robustness.py
    monkeypatch.setattr(metadata, "differing", lambda *_: [])
    truth = json.loads((card / "metrics.json").read_text())

    def noticed(metrics: dict[str, Any]) -> list[str]:
        rewrite(twin / "metrics.json", metrics)
        (twin / "README.md").unlink(missing_ok=True)
        try:
            (twin / "README.md").write_text(render(twin))
            return list(checks.differences(twin, None, samples=True, reported=paper.accuracy))
        except FileError as error:  # as train/verify.py says it
            return [str(error)]

    assert noticed(truth) == []
    for path, lie in LIES[CARDS.index(card) % 6 :: 6]:
        metrics = copy.deepcopy(truth)
        *outer, name = path.split(".")
        part = metrics
        for key in outer:
            part = part[key]
        part[name] = lie(part[name])
        assert noticed(metrics), path

    config = json.loads((card / "config.json").read_text())
    labels = config["label_names"]
    rewrite(twin / "config.json", config | {"familiarity": config["familiarity"] | {"means": [[0.0]]}})
    assert noticed(truth) == ["familiarity: the means are not of 10 classes"]
    rewrite(twin / "config.json", config | {"label_names": [*labels[:3], labels[4], labels[3], *labels[5:]]})
    assert any("label_names" in line for line in noticed(truth))


def test_onnx_files_of_something_else_are_noticed(card: Path, twin: Path) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    assert not metadata.outdated(twin)
    onnx = {precision: accuracy + 0.1 for precision, accuracy in metrics["onnx_test_accuracy"].items()}
    rewrite(twin / "metrics.json", metrics | {"onnx_test_accuracy": onnx})
    (line,) = checks.differences(twin, None, samples=True, reported=paper.accuracy)
    assert line.startswith("model.onnx")
    assert "accuracy" in line


def test_lost_weights_are_noticed(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (twin / "model.safetensors").unlink()
    monkeypatch.setattr(models, "MODEL_CARDS", twin.parent)
    assert verify.main(["--samples"]) == 1
    assert capsys.readouterr().out == f"{twin.name}: model.safetensors missing\n"


def test_training_command_gives_the_published_recipe(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe has changed, flags restore a part of it, and the card names the commit that has the rest; that
    commit also has the weights that the run started from.
    """
    monkeypatch.setattr(arguments, "emulates_bf16", lambda: False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    metrics, text = json.loads((card / "metrics.json").read_text()), (card / "README.md").read_text()
    (command,) = re.findall(r"^accelerate launch train/fit\.py (.*)$", text, re.MULTILINE)
    args = arguments.parse(shlex.split(command))
    assert (args.model, args.dataset, args.seed) == (metrics["model"], metrics["dataset"], metrics["seed"])
    recipe = recipes.as_settings(arguments.recipe_for(args))
    settings = recipes.as_settings(recipes.of_settings(metrics["settings"]))
    differing = {name for name in recipe if recipe[name] != settings[name]}
    assert not differing & {"epochs", "batch_size", "learning_rate", "mixed_precision"}
    commit = metrics["git_commit"].removesuffix("+")
    assert (f"`git checkout {commit}`" in text) == bool(differing or metrics.get("earlier"))
    if differing:
        assert {"--epochs", "--batch-size", "--learning-rate", "--mixed-precision"} <= set(command.split())


def test_torch_local_dir_and_onnx_agree_on_the_shipped_test_images(
    card: Path, loaded: tuple[nn.Module, Any], outputs: dict[str, np.ndarray]
) -> None:
    folder, _ = loaded
    by_name = timm.create_model(card.name, pretrained=True).eval()
    labels = models.pretrained_cfg(by_name)["label_names"]
    assert (
        list(labels)
        == json.loads((card / "config.json").read_text())["label_names"]
        == list(models.pretrained_cfg(folder)["label_names"])
    )
    assert repr(by_name) == repr(folder)
    theirs = folder.state_dict()
    for name, tensor in by_name.state_dict().items():
        assert torch.equal(tensor, theirs.pop(name)), name
    assert not theirs
    agree(outputs["fp32"][:SOME], outputs["torch"][:SOME])


@pytest.mark.slow
def test_weights_and_fp32_agree_on_all_shipped_images(
    loaded: tuple[nn.Module, dict[str, Any]], outputs: dict[str, np.ndarray], shipped: loading.Dataset
) -> None:
    agree(outputs["fp32"], evaluation.torch_outputs(loaded[0], shipped.test))


def agree(fp32: np.ndarray, weights: np.ndarray) -> None:
    assert np.abs(fp32 - weights).max() < 1e-3
    np.testing.assert_array_equal(fp32.argmax(1), weights.argmax(1))


@pytest.mark.parametrize("precision", metadata.FILES)
def test_the_server_runs_what_was_measured(
    card: Path, shipped: loading.Dataset, outputs: dict[str, np.ndarray], precision: str
) -> None:
    """On every processor, and on one core too: without 8-bit dot products, int8 is computed differently by default."""
    images = shipped.test.images[:SOME].permute(0, 2, 3, 1).contiguous().numpy()
    model = load(card, Settings(precision=precision, device="cpu", threads=2))
    for run in (model.run, model.run_on_one_core):
        logits = np.concatenate([run(part)[0] for part in np.split(images, 5)])
        np.testing.assert_allclose(logits, outputs[precision][:SOME], atol=1e-3)


def test_card_is_parsed_back(card: Path) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    parsed = ModelCard.load(card / "README.md")
    result, _ = parsed.data.eval_results
    assert result.metric_value == pytest.approx(metrics["test_accuracy"] / 100)
    assert (result.dataset_type, result.dataset_split) == (DATASETS[metrics["dataset"]].hub_id, "test")
    assert (parsed.data.library_name, parsed.data.license) == ("timm", "apache-2.0")
    assert f"{metrics['epochs']} epochs" in parsed.text
    assert metrics["device"] in parsed.text


def test_card_usage_runs(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all cards the first snippet; tests/train/cards/test_snippets.py runs the others."""
    exec((card / "README.md").read_text().partition("```python\n")[2].partition("```")[0], {})
    label, _, probability = capsys.readouterr().out.partition("\n")[0].partition(": ")
    assert label == ("4" if card.name.endswith(".mnist") else "frog")
    assert float(probability) > 0.5


def test_onnx_files_are_not_tracked() -> None:
    repository = models.REPOSITORY
    if not (repository / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=repository, check=True, capture_output=True, text=True).stdout
    assert [name for name in tracked.splitlines() if name.endswith(".onnx")] == []
