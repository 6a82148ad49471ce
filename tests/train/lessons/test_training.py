"""Trainings side by side are trainings of `train/fit.py`'s loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from conftest import narrow_vgg16

from train.data import loading
from train.lessons import training
from train.paper import section4
from train.training import loop, recipes
from train.training.progress import LossError
from train.training.recipes import Recipe


@pytest.fixture
def few(mnist: loading.Dataset) -> loading.Dataset:
    return replace(mnist, train=mnist.train.spread(64), validation=mnist.validation.spread(20))


def recipe(epochs: int, rate: float = 0.001) -> Recipe:
    short = recipes.of_length(recipes.get("paper", "vanilla_resnet18", "mnist"), epochs)
    return replace(short, batch_size=16, learning_rate=rate)


def network() -> Any:
    torch.manual_seed(0)
    return section4.build("resnet18", dataset="mnist", side=32)


def test_networks_take_turns_and_end_trained(
    few: loading.Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Run, "save", None)  # a state would be thrown away with its folder
    first, second = network(), network()
    before = first.conv1.weight.clone()
    chosen = {"long": (first, recipe(2)), "short": (second, recipe(1))}
    steps = [{name: len(rows) for name, rows in logs.items()} for logs in training.side_by_side(chosen, few)]
    assert steps == [{"long": 1, "short": 0}, {"long": 1, "short": 1}, {"long": 2, "short": 1}]
    assert not torch.equal(first.conv1.weight, before)
    assert not first.training
    assert "images/s" not in capsys.readouterr().out


def test_an_epoch_is_that_of_the_loop(few: loading.Dataset, tmp_path: Path) -> None:
    model = network()
    (logs,) = training.side_by_side({"it": (model, recipe(1))}, few, seed=3)
    other = network()
    set_seed(3)
    run = loop.Run(other, few, recipe(1), Accelerator(mixed_precision="no"), tmp_path, loop.Options(seed=3, kept=False))
    run.train()
    (row,) = run.progress.rows
    times = {"seconds", "images_per_second"}
    assert {k: v for k, v in logs["it"][0].items() if k not in times} == {
        k: v for k, v in row.items() if k not in times
    }
    for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_vgg16_is_trained_folded_and_returned_whole(few: loading.Dataset) -> None:
    torch.manual_seed(0)
    model = narrow_vgg16("vanilla_vgg16.mnist")
    before = model.pre_logits.fc1.weight.clone()
    tiny = replace(few, train=few.train.spread(4), validation=few.validation.spread(2))
    list(training.side_by_side({"vgg": (model, replace(recipe(1), batch_size=4))}, tiny))
    assert model.pre_logits.fc1.weight.shape == before.shape
    assert not torch.equal(model.pre_logits.fc1.weight, before)


def test_a_diverging_network_names_the_step(few: loading.Dataset) -> None:
    with pytest.raises(LossError, match="learning rate"):
        list(training.side_by_side({"it": (network(), recipe(4, rate=1e6))}, few))
