"""A run that goes wrong says so, and the published ones never did."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from train.training import health, models
from train.training.health import DivergedError, Health
from train.training.recipes import Recipe
from train.training.runs import epoch_log

LABELS = torch.arange(1000) % 10
RECIPE = Recipe(epochs=10, learning_rate=0.5, schedule="one-cycle")


def ten_steps_an_epoch(recipe: Recipe = RECIPE) -> Health:
    return Health(LABELS, LABELS, 10, recipe, 10)


def steps(*losses: float, every: int = 5) -> list[dict[str, float]]:
    return [{"step": every * (i + 1), "train_loss": loss} for i, loss in enumerate(losses)]


def epochs(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"epoch": i + 1, "validation_accuracy": accuracy, "validation_loss": 2.0}
        for i, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(("smoothing", "loss"), [(0.0, math.log(10)), (0.1, math.log(10))])
def test_guessing_even_classes(smoothing: float, loss: float) -> None:
    assert health.guessing_loss(LABELS, 10, smoothing) == pytest.approx(loss)


def test_guessing_uneven_classes() -> None:
    """Three quarters of one class: the entropy of these shares, and of the smoothed ones."""
    labels = torch.tensor([0, 0, 0, 1])
    assert health.guessing_loss(labels, 2, 0.0) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert health.guessing_loss(labels, 2, 0.2) == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))


def test_a_loss_that_stays_far_above_guessing_stops_the_run() -> None:
    good = [2.3, 2.0, 1.5, 1.2]  # until step 20, the end of the warm-up
    ten_steps_an_epoch().check(steps(*good, 50.0, 50.0))
    with pytest.raises(DivergedError, match=r"50\.00 at step 25 \(epoch 3\).*--learning-rate below 0\.5"):
        ten_steps_an_epoch().check(steps(*good, 50.0, 50.0, 50.0))


def test_a_loss_that_exploded_and_ended_at_guessing_stops_the_run() -> None:
    exploded = [2.4, 9.0, 4.0, 2.4, 2.3, 2.31, 2.3, 2.3, 2.3]  # until step 45, a quarter after the warm-up's 20
    ten_steps_an_epoch().check(steps(*exploded))
    with pytest.raises(DivergedError, match=r"9\.00 at step 10 \(epoch 1\)"):
        ten_steps_an_epoch().check(steps(*exploded, 2.3))


def test_a_loss_that_exploded_before_the_first_row_stops_the_run() -> None:
    with pytest.raises(DivergedError):
        ten_steps_an_epoch().check(steps(1e12, 1e9, *[1e5] * 8))


@pytest.mark.parametrize(
    "losses",
    [
        (2.4, *[2.3] * 15),  # it has not begun to learn: no sign of an explosion
        (2.4, 9.0, 4.0, 2.0, *[2.31] * 12),  # learnt, and fell back
        (2.4, 30.0, 30.0, 30.0, *[2.1] * 12),  # in the warm-up
        (30.0, *[29.0] * 15),  # a teacher's share
    ],
)
def test_what_may_recover_goes_on(losses: tuple[float, ...]) -> None:
    for rows in range(1, len(losses) + 1):
        ten_steps_an_epoch().check(steps(*losses[:rows]))


@pytest.mark.parametrize("card", models.cards(), ids=lambda card: card.name)
def test_no_published_run_would_have_been_stopped_or_warned_of(card: Path) -> None:
    log = epoch_log.read(card / "log.csv")
    recipe = dataclasses.replace(RECIPE, epochs=len(log), keep_statistics=True)
    watch = Health(LABELS, LABELS, 10, recipe, 10)
    rows = [{"step": 10 * row["epoch"], "train_loss": row["train_loss"]} for row in log]
    for done in range(1, len(log) + 1):
        watch.check(rows[:done])
        assert watch.after_epoch(log[:done]) is None
    assert watch.at_end(log) is None
    assert max(row["train_loss"] for row in log) < watch.guessing_loss


def test_no_jump_of_vanilla_googlenet_stops_the_run() -> None:
    """To chance and back within an epoch or two, as its loss does at high rates."""
    losses = [2.3, 1.9, 1.5, 1.2, 1.0, 2.6, 2.4, 2.3, 1.8, 0.9, 4.0, 2.3, 1.5]
    for rows in range(1, len(losses) + 1):
        ten_steps_an_epoch().check(steps(*losses[:rows]))


@pytest.mark.parametrize(
    ("pretrained", "accuracies", "warned"),
    [
        (True, (10.0,), [1]),
        (False, (10.0, 10.0, 30.0), []),
        (False, (10.0, 50.0, 10.0, 10.0, 40.0, 9.0), [3, 6]),
        (True, (90.0, 80.0), []),
    ],
)
def test_a_fall_to_guessing_is_warned_of_once(
    pretrained: bool, accuracies: tuple[float, ...], warned: list[int]
) -> None:
    watch = ten_steps_an_epoch(dataclasses.replace(RECIPE, keep_statistics=pretrained))
    lines = [watch.after_epoch(epochs(*accuracies[:done])) for done in range(1, len(accuracies) + 1)]
    assert [i + 1 for i, line in enumerate(lines) if line] == warned
    assert all(f"in epoch {epoch}:" in str(lines[epoch - 1]) for epoch in warned)


@pytest.mark.parametrize(("count", "advice"), [(1, "larger --epochs"), (10, "--learning-rate below 0.5")])
def test_a_run_that_ends_at_guessing_says_so(count: int, advice: str) -> None:
    watch = ten_steps_an_epoch(dataclasses.replace(RECIPE, epochs=count))
    assert watch.at_end(epochs(40.0)) is None
    line = watch.at_end(epochs(40.0, 10.0))
    assert line is not None
    assert "no better than guessing (validation accuracy 10.00 %, loss 2.00)" in line
    assert advice in line
