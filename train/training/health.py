"""Signs that a run goes wrong: a training loss that diverges, a network that is no better than guessing.

Only what no good run does stops a run; everything else is a warning. The published runs' training losses stay below
that of guessing in every epoch, the jumps of the vanilla GoogLeNet included.
"""

import math

import torch
from torch import Tensor

from train.training.defaults import FEW_STEPS
from train.training.progress import LossError
from train.training.recipes import Recipe

# By how many times that of guessing a diverged loss is larger, in as many rows of `steps.csv` in succession.
TIMES, ROWS = 10.0, 3
# A run that has learnt nothing so far, and whose loss was once as many times larger, has diverged too. It learnt where
# its loss was below this share of that of guessing; it is given a quarter of its steps after those of the warm-up.
TIMES_ONCE, LEARNT, PATIENCE = 2.0, 0.95, 0.25


class DivergedError(LossError):
    """The training loss rose far above that of guessing, and the network learns nothing."""


class Health:
    """Looks at the rows of a run's logs.

    Args:
        labels: int64 [n], of the training images.
        validation_labels: int64 [m].
        classes: how many there are.
        recipe: of the run.
        steps_per_epoch: optimiser steps.
    """

    def __init__(
        self, labels: Tensor, validation_labels: Tensor, classes: int, recipe: Recipe, steps_per_epoch: int
    ) -> None:
        self.recipe, self.steps_per_epoch = recipe, steps_per_epoch
        self.guessing_loss = guessing_loss(labels, classes, recipe.label_smoothing)
        share = validation_labels.bincount().max().item() / len(validation_labels)
        self.guessing_accuracy = 100 * (share + math.sqrt(share * (1 - share) / len(validation_labels)))

    def check(self, rows: list[dict[str, float]]) -> None:
        """Stop a run whose loss has diverged, by the rows of `steps.csv`; not before the rate has risen to its peak.

        Raises:
            DivergedError: naming the step.
        """
        recipe, steps = self.recipe, self.recipe.epochs * self.steps_per_epoch
        rising = recipe.warm_up * steps if recipe.schedule == "one-cycle" else 0.0
        # The first row counts too: a teacher or auxiliary heads make every loss larger, though not without limit.
        usual = max(self.guessing_loss, min(_loss(rows[0]), TIMES * self.guessing_loss))
        last = rows[-ROWS:]
        if last[0]["step"] > rising and len(rows) > ROWS and min(map(_loss, last)) > TIMES * usual:
            self._stop(last[0])
        highest = max(rows, key=_loss)
        learnt = min(map(_loss, rows)) < LEARNT * usual
        if rows[-1]["step"] > rising + PATIENCE * steps and _loss(highest) > TIMES_ONCE * usual and not learnt:
            self._stop(highest)

    def _stop(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        epoch = (step - 1) // self.steps_per_epoch + 1
        raise DivergedError(
            f"the training loss diverged: it was {_loss(row):,.2f} at step {step} (epoch {epoch}), is not below that "
            f"of guessing ({self.guessing_loss:.2f}) now, and will not recover; the learning rate is probably too "
            f"high: try --learning-rate below {self.recipe.learning_rate:g}"
        )

    def after_epoch(self, rows: list[dict[str, float]]) -> str | None:
        """Warn where the newest row of `log.csv` is the first of some whose validation accuracy is that of guessing.

        A network with random weights begins there, so its first epochs are no fall.
        """
        started_above = self.recipe.keep_statistics  # good weights
        was_above = rows[-2]["validation_accuracy"] > self.guessing_accuracy if len(rows) > 1 else started_above
        if not was_above or rows[-1]["validation_accuracy"] > self.guessing_accuracy:
            return None
        return (
            f"Warning: the validation accuracy fell to that of guessing in epoch {rows[-1]['epoch']:.0f}: where it "
            f"does not rise again, try --learning-rate below {self.recipe.learning_rate:g}"
        )

    def at_end(self, rows: list[dict[str, float]]) -> str | None:
        """Warn where the last epoch's validation accuracy is that of guessing."""
        last, recipe = rows[-1], self.recipe
        if last["validation_accuracy"] > self.guessing_accuracy:
            return None
        if recipe.epochs * self.steps_per_epoch < FEW_STEPS:
            advice = "a larger --epochs gives it more steps"
        else:
            advice = f"try --learning-rate below {recipe.learning_rate:g}"
        return (
            f"Warning: the network is no better than guessing (validation accuracy {last['validation_accuracy']:.2f} "
            f"%, loss {last['validation_loss']:,.2f}): {advice}"
        )


def _loss(row: dict[str, float]) -> float:
    return row["train_loss"]


def guessing_loss(labels: Tensor, classes: int, label_smoothing: float) -> float:
    """Compute the smallest loss of a network that gives the same output for all images."""
    shares = labels.bincount(minlength=classes).double().cpu() / len(labels)
    return float(torch.special.entr((1 - label_smoothing) * shares + label_smoothing / classes).sum())
