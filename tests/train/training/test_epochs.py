"""An epoch around its steps: the sizes that it sees, its clock, its states, and what it tells of those to come."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
from accelerate import Accelerator
from conftest import reset_accelerate

from train.data import loading
from train.training import loop, models
from train.training.loop import Options, Run
from train.training.progress import Progress
from train.training.recipes import Recipe
from train.training.results import plots
from train.training.runs import interrupt

PLAIN = Recipe(epochs=2, learning_rate=0.05, schedule="fixed", batch_size=32)


@pytest.fixture
def few(mnist: loading.Dataset, monkeypatch: pytest.MonkeyPatch) -> loading.Dataset:
    """Three batches to train on; and no pictures, which take longer."""
    monkeypatch.setattr(plots, "curves", lambda *_: None)
    return dataclasses.replace(mnist, train=mnist.train.take(slice(100)), validation=mnist.validation.take(slice(50)))


def test_an_epoch_is_validated_at_the_size_that_it_was_trained_at(few: loading.Dataset, tmp_path: Path) -> None:
    model = timm.create_model("tiny_net.mnist", in_chans=1)
    models.pretrained_cfg(model)["input_size"] = (1, 64, 64)
    seen: list[tuple[bool, int]] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0].shape[-1])))
    recipe = dataclasses.replace(PLAIN, sizes=((0.5, 0.5),))
    Run(model, few, recipe, Accelerator(cpu=True), tmp_path, Options(seed=0)).train()
    assert seen == [*[(True, 32)] * 3, (False, 32), *[(True, 64)] * 3, (False, 64)]


def test_time_left_is_told_by_the_pixels_yet_to_come(few: loading.Dataset, tmp_path: Path) -> None:
    """Two epochs at 32x32, then two of four times the pixels."""
    recipe = Recipe(epochs=4, learning_rate=0.05, schedule="fixed", sizes=((0.5, 0.5),))
    model = timm.create_model("tiny_net.mnist", in_chans=1)
    models.pretrained_cfg(model)["input_size"] = (1, 64, 64)
    run = Run(model, few, recipe, Accelerator(cpu=True), tmp_path, Options(seed=0))
    for epoch, seconds, left in ((1, 60.0, "; about 9 min left"), (3, 240.0, "; about 4 min left"), (4, 240.0, "")):
        run.progress = Progress(epoch=epoch, rows=[{"seconds": seconds}])
        assert run.time_left() == left


def test_seconds_before_a_stop_count(few: loading.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second each time that it is looked at."""
    clock = itertools.count()
    monkeypatch.setattr(
        loop, "time", SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=time.monotonic)
    )

    def train(folder: Path, resume: bool = False) -> Progress:
        reset_accelerate()
        model = timm.create_model("tiny_net.mnist", in_chans=1)
        recipe = dataclasses.replace(PLAIN, epochs=1)
        run = Run(model, few, recipe, Accelerator(cpu=True), folder, Options(seed=0, resume=resume))
        run.train()
        return run.progress

    @contextmanager
    def stopped() -> Iterator[Any]:
        yield SimpleNamespace(requested=True)

    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "on_signals", stopped)
        with pytest.raises(interrupt.Interrupted, match="after batch 1"):
            train(tmp_path / "resumed")
    whole, resumed = train(tmp_path / "whole"), train(tmp_path / "resumed", resume=True)
    # At the start, after each of three batches, at the end.
    assert whole.rows[0]["seconds"] == resumed.rows[0]["seconds"] == whole.train_seconds == resumed.train_seconds == 4


def test_an_epoch_ends_with_a_state_once_a_tenth_of_the_time_has_gone_by(
    few: loading.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    model = timm.create_model("tiny_net.mnist", in_chans=1)
    run = Run(model, few, PLAIN, Accelerator(cpu=True), tmp_path, Options(seed=0, save_minutes=10))
    for seconds, at_epoch_end, anywhere in (
        (59, False, False),
        (61, True, False),
        (599, True, False),
        (601, True, True),
    ):
        now = 1000.0 + seconds
        assert (run.save_due(loop.SHARE_AT_EPOCH_END), run.save_due()) == (at_epoch_end, anywhere)
