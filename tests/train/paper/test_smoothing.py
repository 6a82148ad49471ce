"""What the report says of label smoothing, from pairs of runs."""

from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from train.paper import smoothing
from train.records import Ablation, AblationRun, FilesCalibration, ReliabilityBin


def run(variant: str, accuracy: float, gap: float | None, seed: int = 0) -> AblationRun:
    """A run whose highest probability exceeds its accuracy by `gap`, a share; None: its calibration is not known."""
    known: dict[str, Any] = {}
    if gap is not None:
        bins = [
            ReliabilityBin(images=60, probability=0.5 + gap, accuracy=0.5),
            ReliabilityBin(images=40, probability=0.9 + gap, accuracy=0.9),
        ]
        known["calibration"] = FilesCalibration(
            ece=0.01, ece_uncalibrated=abs(gap), nll=0.5, brier=0.3, coverage=1.0, accuracy_covered=0.9,
            reliability=bins, reliability_uncalibrated=bins,
        )  # fmt: skip
    return AblationRun(
        variant=variant, seed=seed, model="m", model_kwargs={}, settings={}, train_accuracy=90.0,
        validation_accuracy=80.0, test_accuracy=accuracy, train_images=100, test_images=100,
        train_seconds=1.0, device="d", threads=1, mixed_precision="no", git_commit=None, **known,
    )  # fmt: skip


def ablation(*runs: AblationRun) -> Ablation:
    return Ablation(model="improved_resnet18", dataset="cifar10", epochs=5, runs=list(runs))


def test_a_pair_differs_in_smoothing_alone() -> None:
    results = ablation(
        run("vanilla", 70.0, 0.1), run("vanilla+smoothing", 71.0, 0.02), run("vanilla+stem", 72.0, 0.1),
        run("improved", 80.0, -0.05), run("improved-smoothing", 79.0, None),
        run("improved", 80.0, -0.05, seed=1), run("improved-smoothing", 79.5, 0.08, seed=1),
    )  # fmt: skip
    found = smoothing.pairs(results)
    assert [(pair.title, pair.without.variant, pair.smoothed.variant, pair.without.seed) for pair in found] == [
        ("ResNet18", "vanilla", "vanilla+smoothing", 0),
        ("Improved ResNet18", "improved-smoothing", "improved", 1),
    ]
    section = smoothing.section(results)
    assert section is not None
    head, *rows = smoothing.table(found)
    assert section["table"] == [head, *rows]
    assert len(head) == len(rows[0])
    assert [row[:4] for row in rows] == [
        ["ResNet18", "no", "70.00", "+10.00"],
        ["ResNet18", "0.1", "71.00", "+2.00"],
        ["Improved ResNet18", "no", "79.50", "+8.00"],
        ["Improved ResNet18", "0.1", "80.00", "-5.00"],
    ]


@pytest.mark.parametrize(
    ("without", "smoothed", "says"),
    [
        (0.1, 0.02, "over-confident by 2.0 points, and its accuracy changes by +1.00 points. It acts against"),
        (0.1, -0.05, "It acts against over-confidence, and overshoots"),
        (0.05, 0.08, "It does not act against over-confidence"),
        (-0.02, -0.1, "There is no over-confidence for it to act against"),
        (0.0, -0.1, "without label smoothing it is neither over- nor under-confident, with it under-confident by 10.0"),
    ],
)
def test_the_numbers_word_what_it_does(without: float, smoothed: float, says: str) -> None:
    (pair,) = smoothing.pairs(ablation(run("vanilla", 70.0, without), run("vanilla+smoothing", 71.0, smoothed)))
    assert says in smoothing.finding(pair)


def test_without_a_pair_there_is_nothing_to_say(tmp_path: Path) -> None:
    results = ablation(run("vanilla", 70.0, 0.1), run("improved", 80.0, 0.0))
    assert smoothing.section(results) is None
    smoothing.write_plot(results, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_plot_is_where_the_section_says(tmp_path: Path) -> None:
    results = ablation(run("vanilla", 70.0, 0.1), run("vanilla+smoothing", 71.0, 0.02))
    smoothing.write_plot(results, tmp_path)
    section = smoothing.section(results)
    assert section is not None
    with PIL.Image.open(tmp_path / str(section["plot"])) as image:
        assert image.width > image.height
