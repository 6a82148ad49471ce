"""A lesson's form, images, tables, plots and server."""

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.data import loading
from train.data.augment import Augmentation
from train.data.preprocess import Preprocess
from train.lessons import layers, lesson, server, show
from train.lessons.signals import Signal
from train.onnx_export import build
from train.paper import section4
from train.training import models
from train.training.results import plots


def test_the_form_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lesson.VARIABLE, raising=False)
    assert lesson.choose(8, short=1) == 8
    monkeypatch.setenv(lesson.VARIABLE, "short")
    assert lesson.choose(8, short=1) == 1
    monkeypatch.setenv(lesson.VARIABLE, "brief")
    with pytest.raises(lesson.LessonError, match="ZOO_LESSON=brief: valid are full, short"):
        lesson.choose(8, short=1)


def test_images_are_the_samples_or_what_is_at_hand(
    few_samples: Path, mnist: loading.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lesson.load("mnist")
    assert found.digest() == mnist.digest()
    fewer = lesson.load("mnist", 50)
    assert (len(fewer.train), len(fewer.validation), len(fewer.test)) == (50, 50, 50)
    assert len(fewer.test.labels.unique()) == 10
    monkeypatch.setenv("ZOO_DATA_DIR", str(few_samples))
    assert len(lesson.load("mnist").test) == 64


def test_a_table_is_markdown() -> None:
    table = show.Table(("name", "number", "share"), [("a", 1234567, 0.123456), ("b", None, 100.0)])
    assert table._repr_markdown_().splitlines() == [
        "| name | number | share |",
        "| --- | --- | ---: |",
        "| a | 1,234,567 | 0.1235 |",
        "| b |  | 100 |",
    ]


def test_a_table_of_layers_leaves_norms_out() -> None:
    with_norms = section4.build("resnet18", side=32)
    rows = show.layer_table(layers.layers(with_norms)).rows
    assert rows[0] == ("`conv1`", "Conv2d 7x7 / 2", "64 x 16 x 16", 9408, "7 x 7")
    assert rows[-1][-1] == "all"
    assert len(show.layer_table(layers.layers(with_norms), norms=True).rows) == len(rows) + 20


def test_pixels_come_back_from_a_networks_input(cifar10: loading.Dataset) -> None:
    preprocess = Preprocess(models.input_config("vanilla_resnet18.cifar10"))
    few = cifar10.test.images[:4]
    assert np.array_equal(show.to_pixels(preprocess(few), preprocess), show.as_pixels(few))


def test_augmented_copies_differ_and_follow_from_the_seed(cifar10: loading.Dataset) -> None:
    preprocess = Preprocess(models.input_config("improved_resnet18.cifar10"))
    image = cifar10.train.images[0]
    plain = show.augmented(image, Augmentation(), preprocess, 3)
    assert plain.shape == (3, 64, 64, 3)
    # `Preprocess` normalises before it resizes, and `augment` in between: a rounding apart.
    assert np.abs(plain.astype(int) - show.to_pixels(preprocess(image[None]), preprocess)).max() <= 1
    turned = show.augmented(image, Augmentation(rotation=30), preprocess, 3)
    assert not np.array_equal(turned[0], turned[1])
    assert np.array_equal(turned, show.augmented(image, Augmentation(rotation=30), preprocess, 3))
    assert not np.array_equal(turned, show.augmented(image, Augmentation(rotation=30), preprocess, 3, seed=1))


def test_plots_show_what_they_are_given() -> None:
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    figure = show.images(pixels, ["a", "b", "c"], columns=2, title="t")
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    rows = [layers.Layer("x", "Conv2d 3x3", (1, 8, 8), 9, 3, 1), layers.Layer("y", "Linear", (4,), 9, None, None)]
    figure = show.receptive_fields(pixels[0], {"net": rows})
    square: Any = figure.axes[0].patches[0]
    assert (square.get_x(), square.get_y(), square.get_width()) == (2.0, 2.0, 3)  # pixels 2.5 to 5.5 are 3, 4 and 5
    figure = show.signals({"net": [Signal("a", 1.0, 0.1, 0.0), Signal("b", 2.0, 0.2, 0.0)]})
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.1, 0.2]
    figure = show.bars({"one": {"a": 1.0, "b": 2.0}, "two": {"b": 4.0, "a": 3.0}}, "y")
    drawn: Any = figure.axes[0].patches
    assert [bar.get_height() for bar in drawn] == [1, 2, 3, 4]
    figure = show.lines({"x": [3.0, 4.0]}, "step", "rate")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]
    figure = show.maps({"m": torch.eye(3).numpy()}, "t")
    assert figure.axes[0].images[0].get_array().sum() == 3
    figure = show.confidences({"sure": np.array([[0.98, 0.02], [0.99, 0.01]])})
    drawn = figure.axes[0].patches
    assert drawn[0].get_xy()[:, 1].max() == 2


def test_plots_of_a_run_are_figures_that_need_no_file(tmp_path: Path) -> None:
    row = {f"{split}_{metric}": 1.0 for split in plots.COLOURS for metric in ("loss", "accuracy")} | {"epoch": 1.0}
    figure = plots.curves([row, row | {"epoch": 2.0}], "a run")
    assert len(figure.axes) == 2
    assert plots.curves([row], "a run", tmp_path / "curves.png").axes
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_the_server_answers_until_it_is_stopped(card: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(card, tmp_path / card.name)
    if not (folder / "model.onnx").is_file():
        build.export(folder)
    running = server.start(tmp_path)
    try:
        with urllib.request.urlopen(f"{running.address}/v2/models/{card.name}") as response:
            assert json.load(response)["name"] == card.name
    finally:
        running.stop()
    assert running.process.returncode == 0


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(server.ServerError, match=r"the server did not start: .*holds no models"):
        server.start(tmp_path)
