"""Training on one's own pictures, from weights of other classes, and networks made for other channels."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import SAMPLES, reset_accelerate
from safetensors.torch import load_file

from train import fit
from train.cards import publishing
from train.data import loading
from train.paper import paper
from train.training import loop, models

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that a colour tells apart."""
    folder = tmp_path_factory.mktemp("pictures") / "shapes"
    generator = np.random.default_rng(0)
    for channel, label in enumerate(("blue", "green", "red")):
        (folder / label).mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 90, (40, 50, 3), dtype=np.uint8)
            pixels[:, :, 2 - channel] += 150
            PIL.Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour") / "run"
    reset_accelerate()
    arguments = ("--model", "tiny_net", "--dataset", "cifar10", "--data-dir", SAMPLES, "--epochs", 1)
    assert fit.main([*map(str, arguments), "--output-dir", str(folder)]) == 0
    return folder


@pytest.mark.usefixtures("no_onnx")
def test_fine_tuning_on_own_pictures(run: Run, colour_run: Path, pictures: Path, tmp_path: Path) -> None:
    """From a run with ten classes to three: the head is new, everything else begins where the run ended."""
    own = ("--model", "tiny_net", "--dataset", pictures, "--pretrained", colour_run)
    status, output, errors = run(*own, "--epochs", 1, "--learning-rate", 1e-9, "--output-dir", tmp_path / "still")
    assert (status, errors) == (0, "")
    assert "Derived from 74 training images and pretrained weights: " in output
    before, after = (load_file(folder / "model.safetensors") for folder in (colour_run, tmp_path / "still"))
    assert torch.allclose(before["conv1.weight"], after["conv1.weight"], atol=1e-6)
    assert torch.allclose(before["conv2.weight"], after["conv2.weight"], atol=1e-6)
    assert after["fc.weight"].shape[0] == 3
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(before[name], after[name])
    # The classifier was fitted to frozen features before: the rate above teaches nothing.
    assert json.loads((tmp_path / "still" / "metrics.json").read_text())["validation_accuracy"] > 80

    status, _, errors = run(
        *own, "--epochs", 12, "--batch-size", 16, "--learning-rate", 0.05, "--output-dir", tmp_path / "tuned"
    )
    assert (status, errors) == (0, "")
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert list(metrics["per_class_accuracy"]) == ["blue", "green", "red"]
    assert metrics["test_accuracy"] > 80
    reset_accelerate()
    card = publishing.publish(tmp_path / "tuned", tmp_path / "card", None, False, paper.accuracy)
    model, config = models.load_card(card)
    assert config["label_names"] == ["blue", "green", "red"]
    assert config["image_size"] == [32, 32, 3]
    assert model.fc.out_features == 3
    again = models.create("tiny_net", str(pictures), 3, 3, str(card))
    assert torch.equal(
        again.get_parameter("fc.weight"), model.get_parameter("fc.weight")
    )  # a card of as many classes: its classifier is kept


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_frozen_weights_stay_what_they_were(
    run: Run, colour_run: Path, pictures: Path, tmp_path: Path, compiled: bool
) -> None:
    own = ("--model", "tiny_net", "--dataset", pictures, "--pretrained", colour_run, "--epochs", 3)
    more = ("--freeze", "--learning-rate", 0.1, "--output-dir", tmp_path / "run", *(["--compile"] if compiled else []))
    status, output, errors = run(*own, *more)
    assert status == 0, errors  # the compiler may warn of a missing GPU
    assert "all other layers frozen" in output
    before, after = (load_file(folder / "model.safetensors") for folder in (colour_run, tmp_path / "run"))
    same = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    assert before.keys() - same == {"fc.weight", "fc.bias"}


def test_the_same_classes_keep_their_classifier(run: Run, colour_run: Path, tmp_path: Path) -> None:
    arguments = ("--model", "tiny_net", "--dataset", "cifar10", "--data-dir", SAMPLES, "--pretrained", colour_run)
    more = ("--epochs", 1, "--learning-rate", 1e-30, "--output-dir", tmp_path / "run")
    assert run(*arguments, *more)[0] == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (colour_run, tmp_path / "run"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_overfitting_a_folder_takes_all_classes(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures come class by class: the first few would be of one, which any constant answer gets right."""
    seen: list[loading.Dataset] = []
    begin = loop.Run

    def watched(model: torch.nn.Module, few: loading.Dataset, *rest: Any) -> loop.Run:
        seen.append(few)
        return begin(model, few, *rest)

    monkeypatch.setattr(loop, "Run", watched)
    arguments = ("--model", "tiny_net", "--dataset", pictures, "--overfit", 12, "--epochs", 1)
    assert run(*arguments, "--output-dir", tmp_path / "run")[0] == 0
    (few,) = seen
    assert len(few.train) == 12
    assert few.train.labels.bincount(minlength=3).min() >= 3


def test_weights_of_a_run_are_its_folder(run: Run, colour_run: Path, pictures: Path, tmp_path: Path) -> None:
    """By whose name the card tells how to train once more."""
    arguments = ("--model", "tiny_net", "--dataset", pictures, "--epochs", 1, "--output-dir", tmp_path / "run")
    assert run(*arguments, "--pretrained", colour_run / "model.safetensors")[0] == 0
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    assert args["pretrained"] == str(colour_run.resolve())
    assert args["earlier"][0]["name"] == "run"


def test_a_folder_is_found_from_anywhere(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was spelled, and after it was moved, as long as the pictures are the same."""
    shutil.copytree(pictures, tmp_path / "mine" / "shapes")
    arguments = ("--model", "tiny_net", "--epochs", 1, "--output-dir", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "mine")
    assert run(*arguments, "--dataset", "shapes")[0] == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["dataset"] == str(tmp_path / "mine" / "shapes")
    (tmp_path / "mine").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    status, output, _ = run(*arguments, "--dataset", "moved/shapes/", "--resume")
    assert (status, "is complete" in output) == (0, True)


def test_more_pieces_than_pictures_are_one_line(run: Run, pictures: Path, tmp_path: Path) -> None:
    arguments = ("--model", "tiny_net", "--dataset", pictures, "--micro-batches", 60)
    status, _, errors = run(*arguments, "--batch-size", 240, "--output-dir", tmp_path / "run")
    assert status == 2
    assert "training images are too few for 60 pieces: at least 120" in errors


@pytest.mark.parametrize("model", ["tiny_colour", "tiny_net.mnist"])
def test_network_made_for_other_channels(run: Run, model: str, pictures: Path, tmp_path: Path) -> None:
    """Grey images for a network whose cfg speaks of colour, as most of timm's do, and the other way round."""
    dataset = ("--dataset", "mnist", "--data-dir", SAMPLES) if model == "tiny_colour" else ("--dataset", pictures)
    status, _, errors = run("--model", model, *dataset, "--epochs", 1, "--output-dir", tmp_path / "run")
    assert (status, errors) == (0, "")
    loaded, _ = models.load_run(tmp_path / "run")
    chans = 1 if model == "tiny_colour" else 3
    assert loaded.conv1.in_channels == chans
    cfg = models.pretrained_cfg(loaded)
    assert (cfg["input_size"][0], len(cfg["mean"]), len(cfg["std"])) == (chans, chans, chans)
    stored = load_file(tmp_path / "run" / "model.safetensors")["conv1.weight"]
    assert torch.equal(loaded.get_parameter("conv1.weight"), stored)
    reset_accelerate()
    card = publishing.publish(
        tmp_path / "run", tmp_path / "card", SAMPLES if chans == 1 else None, True, paper.accuracy
    )
    published, config = models.load_card(card)
    assert torch.equal(published.get_parameter("conv1.weight"), stored)
    assert config["pretrained_cfg"]["input_size"][0] == chans
