"""Plots that can be compared: one scale, whole curves, all runs of a chain; and the images of Figures 3 and 4."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as T

from train import records
from train.paper import ours, paper
from train.paper.figures import curves, files, images
from train.paper.figures.curves import Chain, Scale
from train.training import models
from train.training.results import plots
from train.training.results.plots import SMOOTHED


def caught(patch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are written from now on, by the name of their file."""
    found: dict[str, Figure] = {}
    for module in (curves, plots):
        patch.setattr(module, "save", lambda figure, path: found.update({path.name: figure}))
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    return caught(monkeypatch)


def rows(epochs: int, **values: float) -> list[dict[str, float]]:
    usual = {"train_loss": 0.5, "validation_loss": 0.4, "train_accuracy": 90.0, "validation_accuracy": 91.0}
    return [{"epoch": float(i + 1), **usual, **values} for i in range(epochs)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    """The curves of this checkout's models and reproductions."""
    published, reproduced = ours.published(models.cards()), ours.reproductions()
    with pytest.MonkeyPatch.context() as patch:
        drawn = caught(patch)
        for dataset in paper.TABLES:
            files._curves(published, reproduced, dataset, tmp_path_factory.mktemp(dataset))
    return drawn


@pytest.mark.parametrize("dataset", paper.TABLES)
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_whole_curves_on_one_scale(written: dict[str, Figure], dataset: str, metric: str) -> None:
    figures = [written[f"{dataset}-{metric}.png"], written[f"{dataset}-paper-{metric}.png"]]
    limits = {axes.get_ylim() for figure in figures for axes in figure.axes}
    assert len(limits) == 1
    ((low, high),) = limits
    for figure in figures:
        assert [axes.get_title() for axes in figure.axes] == [
            "VGG16", "Improved VGG16", "ResNet18", "Improved ResNet18", "GoogLeNet", "Improved GoogLeNet",
        ]  # fmt: skip
        for left, right in zip(figure.axes[::2], figure.axes[1::2], strict=True):
            assert left.get_xlim() == right.get_xlim()
        for axes in figure.axes:
            for line in axes.lines:
                if len(line.get_xdata()) > 2:  # type: ignore[arg-type]
                    x, y = (np.asarray(data, dtype=float) for data in line.get_data())
                    assert axes.get_xlim()[0] <= x.min() <= x.max() <= axes.get_xlim()[1]
                    assert low < y.min() <= y.max() < high


def test_all_runs_of_a_chain_are_shown(written: dict[str, Figure]) -> None:
    """44 + 36 + 24 epochs, the last with a teacher."""
    (axes,) = (axes for axes in written["cifar10-loss.png"].axes if axes.get_title() == "Improved GoogLeNet")
    train = [line for line in axes.lines if str(line.get_label()).startswith("train")]
    assert [len(line.get_xdata()) for line in train] == [44, 36, 24]  # type: ignore[arg-type]
    assert [line.get_label() for line in train] == ["train", "train", "train, with a teacher"]
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == [44.5, 80.5]  # type: ignore[arg-type]


def test_every_published_chain_has_its_logs() -> None:
    published = ours.published(models.cards())
    for key, chain in ours.chains(published).items():
        metrics = published[key].metrics
        assert chain.missing == 0
        assert [len(run) for run in chain.runs] == [*(run.epochs for run in metrics.earlier), metrics.epochs]
        epochs = [row["epoch"] for row in chain.rows]
        assert epochs == list(range(1, len(epochs) + 1))


def test_a_chain_begins_after_the_last_run_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    folder = tmp_path / "docs" / "report" / "earlier"
    folder.mkdir(parents=True)
    ((key, entry), *_) = ours.published(models.cards()).items()
    usual: dict[str, Any] = {"epochs": 1, "train_seconds": 1.0, "test_accuracy": 1.0, "git_commit": None}
    earlier = [records.Earlier(name="net", safetensors_sha256=letter * 64, **usual) for letter in "abc"]
    chained = {key: dataclasses.replace(entry, metrics=dataclasses.replace(entry.metrics, earlier=earlier))}
    assert (ours.chains(chained)[key].missing, len(ours.chains(chained)[key].runs)) == (3, 1)
    for letter in "ac":
        (folder / f"net.{letter * 12}.csv").write_text("epoch,train_loss\n1,0.5\n")
    assert (ours.chains(chained)[key].missing, len(ours.chains(chained)[key].runs)) == (2, 2)


def test_a_chain_without_all_logs_says_so(drawn: dict[str, Figure], tmp_path: Path) -> None:
    chain = Chain([rows(3)], missing=1)
    curves.grid({"vanilla_vgg16": chain}, "loss", Scale("mnist", 0, 1), "title", tmp_path / "a.png")
    first, second, *_ = drawn["a.png"].axes
    assert [text.get_text() for text in first.texts] == ["the last 1 of 2 runs"]
    assert [text.get_text() for text in second.texts] == ["not run yet"]
    assert second.get_xlim() == (0, 4)


def test_the_loss_with_smoothed_labels_is_drawn_beside_the_plain_one(drawn: dict[str, Figure], tmp_path: Path) -> None:
    marks = [{"epoch": 2.0, "train_loss": 0.5, SMOOTHED: 0.9, "train_accuracy": 1.0, "validation_accuracy": 1.0}]
    # The first epoch is that of an earlier version.
    log = [*rows(1), *(row | {"epoch": row["epoch"] + 1} for row in rows(2, **{SMOOTHED: 0.8}))]
    chain = Chain([log], marks=marks)
    scale = curves.scale("cifar10", "loss", [chain])
    assert scale.high > 0.9
    curves.grid({"improved_vgg16": chain}, "loss", scale, "title", tmp_path / "a.png")
    lines = {str(line.get_label()): list(line.get_ydata()) for line in drawn["a.png"].axes[1].lines}  # type: ignore[arg-type]
    smoothed = lines["validation, labels smoothed as in training"]
    assert np.isnan(smoothed[0])
    assert smoothed[1:] == [0.8, 0.8]
    assert lines["validation"] == [0.4] * 3
    assert lines["validation, labels smoothed, the paper's log"] == [0.9]
    plots.curves(log, "a run", tmp_path / "b.png")
    assert [len(line.get_xdata()) for line in drawn["b.png"].axes[0].lines] == [3, 3, 2]  # type: ignore[arg-type]


def test_the_papers_loss_of_improved_networks_is_with_smoothed_labels() -> None:
    epoch = paper.LOGS["cifar10"]["improved_vgg16"][0]
    assert files.as_row("cifar10", "improved_vgg16", epoch)[SMOOTHED] == pytest.approx(0.86, abs=0.01)
    assert "validation_loss" not in files.as_row("cifar10", "improved_vgg16", epoch)
    assert SMOOTHED not in files.as_row("cifar10", "vanilla_vgg16", paper.LOGS["cifar10"]["vanilla_vgg16"][0])


def test_bars_are_the_accuracies_of_each_class(drawn: dict[str, Figure], tmp_path: Path) -> None:
    published, reproduced = ours.published(models.cards()), ours.reproductions()
    files._class_accuracies(published, reproduced, "cifar10", tmp_path / "a.png")
    theirs, mine, again = drawn["a.png"].axes
    for axes, of in ((theirs, paper.per_class), (mine, lambda d, m: published[d, m].metrics.tested_classes)):
        heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
        assert heights == [list(of("cifar10", model).values()) for model in paper.MODELS]
        bold = [label.get_text() for label in axes.get_xticklabels() if label.get_fontweight() == "bold"]
        assert bold == ["cat"]
        assert axes.get_ylim() == (0, 100)
    repeated = [model for model in paper.MODELS if ("cifar10", model) in reproduced]
    assert again.get_title() == f"Ours, with the paper's recipe ({len(repeated)} of 6 networks)"
    assert [model for model, bars in zip(paper.MODELS, again.containers, strict=True) if len(bars)] == repeated


@pytest.mark.parametrize("dataset", paper.TABLES)
def test_images_are_those_of_each_class_resized_and_augmented(dataset: str) -> None:
    found = images.rows(dataset)
    assert list(found) == ["original", "resized", "augmented, epoch 1", "augmented, epoch 2"]
    original = torch.from_numpy(found["original"]).permute(0, 3, 1, 2)
    resized = F.interpolate(original.float(), (64, 64), mode="bilinear", align_corners=False)
    assert np.abs(resized.permute(0, 2, 3, 1).numpy() - found["resized"]).max() < 1
    one, two = (found[f"augmented, epoch {i}"] for i in (1, 2))
    for other in (two, found["resized"]):
        assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in zip(one, other, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found.values(), images.rows(dataset).values(), strict=True))


def test_the_sheet_of_images_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        images.write("mnist", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (images.LEFT + 10 * 70, images.TOP + 4 * 70)
        corner = (images.LEFT, images.TOP, images.LEFT + 64, images.TOP + 64)
        shown = np.asarray(sheet.convert("L").crop(corner), dtype=int)
    first = T.to_pil_image(torch.from_numpy(images.rows("mnist")["original"][0]).permute(2, 0, 1))
    expected = np.asarray(first.resize((64, 64), Image.Resampling.NEAREST), dtype=int)
    assert np.abs(shown - expected).max() <= 4  # 256 colours
