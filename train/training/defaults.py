"""Settings that fit the data: batch size, rate, length, sizes and augmentation for images of one's own.

Recipe `fast` was chosen for the paper's datasets in full. A few hundred images are a few steps of its large batches, at
a rate that destroys pretrained weights. Each rule below was chosen by validation accuracy (docs/recipe.md,
`benchmarks/own_images.py`).
"""

import math
from dataclasses import dataclass, replace

from train.data.augment import Augmentation
from train.training.recipes import Recipe
from zoo.catalog import DATASETS

# Below as many optimiser steps a run has hardly begun to learn.
FEW_STEPS = 100
# Networks without norms, or with linear layers without: their gradients have to be clipped at the rates of the others.
WITHOUT_NORMS = ("vanilla_vgg16",)


@dataclass(frozen=True)
class Fitted:
    """What follows from the data.

    Attributes:
        fit_classifier: begin with a classifier fitted to frozen features (`fine_tuning.fit_classifier`).
        keep_statistics: leave BatchNorm's running statistics as they are (`fine_tuning.keep_statistics`).
        lines: what was derived and why, and a warning where the steps are few.
    """

    recipe: Recipe
    fit_classifier: bool
    keep_statistics: bool
    lines: tuple[str, ...]


def is_full(dataset: str, images: int) -> bool:
    """Whether these are the paper's MNIST or CIFAR-10 in full, for which the recipes were chosen."""
    known = DATASETS.get(dataset)
    return known is not None and images == known.train_images - known.validation_images


def fitted(
    recipe: Recipe,
    *,
    model: str,
    dataset: str,
    images: int,
    pretrained: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Fitted:
    """Fit recipe `fast` to a dataset.

    Args:
        recipe: of the model and the dataset, as `recipes.get` gives it. Its peak rate and batch size tell which rate
            the network bears.
        images: that are trained on.
        pretrained: whether the weights come from elsewhere.
        epochs, batch_size, learning_rate: what the command line says; None: what follows.

    Returns:
        The recipe unchanged where the dataset is one of the paper's in full.
    """
    if is_full(dataset, images):
        return Fitted(recipe, fit_classifier=False, keep_statistics=False, lines=())
    name = model.partition(".")[0]
    batch = batch_size or _batch_size(images, pretrained)
    steps = steps_per_epoch(images, batch)
    chosen_epochs = epochs or _epochs(steps, pretrained)
    rate = learning_rate or _peak(recipe, name, batch, pretrained)
    changes = {
        "epochs": chosen_epochs,
        "batch_size": batch,
        "learning_rate": rate,
        "schedule": "one-cycle",
        "clip_norm": 1.0 if pretrained else recipe.clip_norm or 2.0,
        # A network needs thousands of steps to gain from a growing size, and pretrained weights know the full one.
        "sizes": recipe.sizes if not pretrained and steps * chosen_epochs >= 5000 else (),
        "augmentation": _augmentation(recipe, dataset, pretrained),
    }
    derived = replace(recipe, **changes)
    return Fitted(derived, pretrained, pretrained, _lines(derived, images, steps, pretrained))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the batches of an epoch: a remainder of less than half a batch is left out (`batches.batches`)."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (2 * rest >= batch_size))


def _batch_size(images: int, pretrained: bool) -> int:
    """A power of two from 16 to 128, for about 64 steps an epoch."""
    return min(128, max(16, 2 ** round(math.log2(max(images, 1) / 64))))


def _epochs(steps: int, pretrained: bool) -> int:
    """As many epochs as make 600 steps of fine-tuning or 3,000 from random weights, within limits."""
    wanted, least, most = (600, 10, 100) if pretrained else (3000, 30, 200)
    return min(most, max(least, math.ceil(wanted / steps)))


def _peak(recipe: Recipe, name: str, batch: int, pretrained: bool) -> float:
    """The peak of the one-cycle schedule."""
    if pretrained:
        return 0.01 if name in WITHOUT_NORMS else 0.03
    return float(f"{recipe.learning_rate * math.sqrt(batch / recipe.batch_size) / 2:.1g}")


def _augmentation(recipe: Recipe, dataset: str, pretrained: bool) -> Augmentation:
    """Small movements; no mirroring, which would make one letter or digit of two."""
    if dataset == "mnist":
        return recipe.augmentation
    flip = recipe.augmentation.flip if dataset == "cifar10" else "none"
    if pretrained:
        return Augmentation(flip=flip, rotation=10, shift=0.1, scale=(0.9, 1.1))
    return replace(recipe.augmentation, flip=flip, cutout=0.0)


def _lines(recipe: Recipe, images: int, steps: int, pretrained: bool) -> tuple[str, ...]:
    return ()
