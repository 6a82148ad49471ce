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
MANY_IMAGES = 20_000
SMALLEST_BATCH = 16
LARGEST_BATCH = 128
FINE_TUNING_RATE = 0.003
# The vanilla VGG16, which has no norms, needs most: 100 steps at 0.02 end at 62 %, 250 at 0.03 at 100 %.
BY_HEART_STEPS = 250
BY_HEART_RATE = 0.03


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
        dataset: its name, as `--dataset` gives it.
        images: that are trained on.
        pretrained: whether the weights come from elsewhere.
        epochs: the command line's; None: what follows from the data. So are the next two.
        batch_size: images per optimiser step.
        learning_rate: the peak rate.

    Returns:
        The recipe unchanged where the dataset is one of the paper's in full.
    """
    if is_full(dataset, images):
        return Fitted(recipe, fit_classifier=False, keep_statistics=False, lines=())
    many = images >= MANY_IMAGES and not pretrained  # about as many as the recipe was chosen for
    batch = batch_size or (recipe.batch_size if many else _batch_size(images))
    steps = steps_per_epoch(images, batch)
    chosen_epochs = epochs or (recipe.epochs if many else _epochs(steps, pretrained))
    peak = recipe.learning_rate if many else _peak(recipe, batch, images, pretrained)
    derived = replace(
        recipe,
        epochs=chosen_epochs,
        batch_size=batch,
        learning_rate=learning_rate or peak,
        clip_norm=1.0 if pretrained else recipe.clip_norm or (0.0 if many else 2.0),
        # Few steps leave no time to get used to another size, and pretrained weights know the full one.
        sizes=recipe.sizes if many else (),
        augmentation=_augmentation(recipe, dataset, pretrained, many),
    )
    return Fitted(derived, pretrained, pretrained, _lines(derived, images, steps, pretrained))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the batches of an epoch: a remainder of less than half a batch is left out (`batches.batches`)."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (2 * rest >= batch_size))


def _batch_size(images: int) -> int:
    """A power of two from 16 to 128, for about 64 steps an epoch."""
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, 1 << round(math.log2(max(images / 64, 1)))))


def _epochs(steps: int, pretrained: bool) -> int:
    """As many epochs as make 600 steps of fine-tuning or 3,000 from random weights, within limits."""
    wanted, least, most = (600, 10, 100) if pretrained else (3000, 30, 200)
    return min(most, max(least, math.ceil(wanted / steps)))


def _peak(recipe: Recipe, batch: int, images: int, pretrained: bool) -> float:
    """The peak of the one-cycle schedule, to one digit; it grows with the square root of the batch size.

    From pretrained weights, 0.003 for batches of 16 loses little where the images are much like those of before (0.01
    and 0.03 lose more), and gains as much as larger rates where they are not. Below 100 images it falls with their
    number: a few images tell too little about the features that others are to share.
    """
    if pretrained:
        rate = FINE_TUNING_RATE * math.sqrt(batch / SMALLEST_BATCH) * min(1.0, images / 100)
    else:
        rate = recipe.learning_rate * math.sqrt(batch / recipe.batch_size) / 2
    return float(f"{rate:.1g}")


def _augmentation(recipe: Recipe, dataset: str, pretrained: bool, many: bool) -> Augmentation:
    """Small movements; no mirroring, which would make one letter or digit of two."""
    if dataset == "mnist":
        return recipe.augmentation
    flip = recipe.augmentation.flip if dataset == "cifar10" else "none"
    if pretrained:
        return Augmentation(flip=flip, rotation=10, shift=0.1, scale=(0.9, 1.1))
    return replace(recipe.augmentation, flip=flip, cutout=recipe.augmentation.cutout if many else 0.0)


def by_heart(recipe: Recipe, images: int) -> Recipe:
    """Make a recipe with which each of the six networks learns `images` images by heart (`--overfit`).

    Small batches for many steps, and nothing that works against learning by heart: neither augmentation nor label
    smoothing nor weight decay. The clipped gradients let networks without norms take the rates of the others.
    """
    batch = max(4, min(SMALLEST_BATCH, images))
    return replace(
        recipe,
        epochs=math.ceil(BY_HEART_STEPS / steps_per_epoch(images, batch)),
        batch_size=batch,
        learning_rate=BY_HEART_RATE,
        schedule="one-cycle",
        linear_lr_scale=1.0,
        clip_norm=1.0,
        weight_decay=0.0,
        label_smoothing=0.0,
        sizes=(),
        augmentation=Augmentation(),
    )


def _lines(recipe: Recipe, images: int, steps: int, pretrained: bool) -> tuple[str, ...]:
    total = steps * recipe.epochs
    words = [
        f"batches of {recipe.batch_size}",
        f"{recipe.epochs} epochs ({total:,} steps)",
        f"peak rate {recipe.learning_rate:g}",
    ]
    if recipe.clip_norm:
        words.append(f"gradients clipped to {recipe.clip_norm:g}")
    if not recipe.sizes:
        words.append("full input size")
    if recipe.augmentation.flip == "none":
        words.append("no mirroring (left and right may matter)")
    if pretrained:
        words.append("classifier fitted to frozen features first, BatchNorm statistics kept")
    weights = "pretrained weights" if pretrained else "random weights"
    derived = f"Derived from {images:,} training images and {weights}: {', '.join(words)}"
    if total >= FEW_STEPS:
        return (derived,)
    return (
        derived,
        f"Warning: {total} optimiser steps are few: a larger --epochs or a smaller --batch-size makes more of them",
    )
