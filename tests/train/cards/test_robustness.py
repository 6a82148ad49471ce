"""A card's results on corrupted images: what `verify.py` says where they are not true."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES

from train import records
from train.cards import model_card, robustness
from train.records import CardConfig, CardMetrics
from train.shifts import robustness as shifts


@pytest.fixture(scope="module")
def results(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the card with results of 20 images."""
    folder = tmp_path_factory.mktemp("measured")
    copy = Path(shutil.copytree(card, folder / card.name))
    list(shifts.measure([copy], "int8", 20, SAMPLES, folder / "kept"))
    robustness.plot(copy)
    return copy


@pytest.fixture
def measured(twin: Path, results: Path) -> Path:
    """A card with results of 20 images."""
    shutil.copytree(results, twin, dirs_exist_ok=True)
    return twin


def lines(card: Path) -> list[str]:
    metrics = records.read(CardMetrics, card / "metrics.json")
    return list(robustness.differences(card, metrics, records.read(CardConfig, card / "config.json")))


def change(card: Path, **values: Any) -> None:
    file = card / "robustness.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_true_results_pass_and_are_in_the_card(measured: Path, twin: Path) -> None:
    assert lines(measured) == []
    text = model_card.render(measured)
    found = robustness.read(measured)
    assert found is not None
    assert "](robustness.png)" in text
    assert f"| Mean of {len(found.corruptions)} corruptions | {found.mean.accuracy:.2f} |" in text


def test_a_card_without_results_says_nothing_of_them(twin: Path) -> None:
    assert lines(twin) == []
    assert "robustness" not in model_card.render(twin)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"safetensors_sha256": "0"}, "robustness.json is of other weights: python train/robustness.py"),
        ({"temperature": 9.5}, "robustness.json is of another calibration: python train/robustness.py"),
        ({"mean": {"accuracy": 99.0, "ece": 0.0}}, "the mean in robustness.json is Score(accuracy=99.0"),
    ],
)
def test_wrong_results_are_found(values: dict[str, Any], line: str, measured: Path) -> None:
    change(measured, **values)
    assert [found[: len(line)] for found in lines(measured)] == [line]


def test_results_of_the_shipped_images_are_measured_again(measured: Path) -> None:
    # Now they claim to be of these, and those of 20 images are others.
    change(measured, test_images=1000, clean={"accuracy": 120.0, "ece": 0.0})
    found = lines(measured)
    assert found[-1].startswith("the clean accuracy in robustness.json is 120.0, that of the card ")
    stated = robustness.read(measured)
    assert stated is not None
    for scores in stated.corruptions.values():
        scores.accuracy[:] = [-1.0] * len(scores.accuracy)
    change(measured, corruptions=records.as_dict(stated)["corruptions"])
    names = {"mnist": ("rotate 3", "spatter 5"), "cifar10": ("gaussian_noise 3", "fog 5")}[measured.name.split(".")[1]]
    found = lines(measured)
    for name in names:
        assert any(line.startswith(f"{name} has an accuracy of ") for line in found)
