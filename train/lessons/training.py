"""Short trainings side by side, epoch by epoch, so that a notebook can draw the curves while they grow."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from train.data.loading import Dataset
from train.speed.fold import fold, unfold
from train.training import loop, models
from train.training.recipes import Recipe
from train.training.runs.interrupt import Stop

Rows = list[dict[str, float]]


class _Terse(Accelerator):  # type: ignore[misc]  # accelerate has no type annotations
    """Leaves out the lines of single epochs, which the curves show; warnings are printed."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        if not str(args[0]).startswith("Epoch "):
            super().print(*args, **kwargs)


def side_by_side(
    models_and_recipes: Mapping[str, tuple[nn.Module, Recipe]], dataset: Dataset, seed: int = 0
) -> Iterator[dict[str, Rows]]:
    """Train several networks on the same images, an epoch of each in turn, in float32.

    Each network is trained by the loop of `train/fit.py`, and sees the images in the same order. When the iterator
    ends, the networks are trained and in evaluation mode.

    Args:
        models_and_recipes: networks, which are trained in place, and how, by title. A shorter recipe ends earlier.
        dataset: to train and validate on.
        seed: fixes the order of the images, their augmentation and dropout.

    Yields:
        After each epoch the logs so far, by title: for each epoch a row with `epoch`, `learning_rate`, `train_loss`,
        `train_accuracy`, `validation_loss` and `validation_accuracy`.

    Raises:
        LossError: the loss of a network diverged; naming the step.
    """
    accelerator, stop = _Terse(mixed_precision="no"), Stop()
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, loop.Run] = {}
        for title, (model, recipe) in models_and_recipes.items():
            folded = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
            float32 = replace(recipe, mixed_precision="no")
            options = loop.Options(seed=seed, save_minutes=math.inf, kept=False, cuda_graphs=False)
            runs[title] = loop.Run(folded, dataset, float32, accelerator, Path(folder, str(len(runs))), options)
        set_seed(seed)
        for run in runs.values():
            run.begin()
        while waiting := [run for run in runs.values() if run.progress.epoch < run.recipe.epochs]:
            for run in waiting:
                run.epoch(stop)
                run.end_epoch(run.validate())
                yield {title: list(other.progress.rows) for title, other in runs.items()}
        for (model, _), run in zip(models_and_recipes.values(), runs.values(), strict=True):
            model.load_state_dict(unfold(run.finish()).state_dict())
            model.eval()
