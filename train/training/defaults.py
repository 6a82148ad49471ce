"""Settings that fit the data: batch size, rate, length, sizes and augmentation for images of one's own.

Recipe `fast` was chosen for the paper's datasets in full. A few hundred images are a few steps of its large batches, at
a rate that destroys pretrained weights. Each rule below was chosen by validation accuracy (docs/recipe.md,
`benchmarks/own_images.py`).
"""

import math
from dataclasses import replace

from train.data.augment import Augmentation
from train.records import RunSettings
from train.training import recipes
from train.training.recipes import Recipe
from zoo.catalog import DATASETS

# Below as many optimiser steps a run has hardly begun to learn.
FEW_STEPS = 100
MANY_IMAGES = 20_000
SMALLEST_BATCH = 16
LARGEST_BATCH = 128
FINE_TUNING_RATE = 0.003
# From good weights the first steps do harm; a longer rise makes them smaller.
FINE_TUNING_WARM_UP = 0.5
# The vanilla VGG16, which has no norms, needs most: 100 steps at 0.02 end at 62 %, 250 at 0.03 at 100 %.
BY_HEART_STEPS = 250
BY_HEART_RATE = 0.03


def is_full(dataset: str, images: int) -> bool:
    """Whether these are the paper's MNIST or CIFAR-10 in full, for which the recipes were chosen."""
    known = DATASETS.get(dataset)
    return known is not None and images == known.train_images - known.validation_images


def follows_from_data(name: str, dataset: str, images: int, overfit: int | None) -> bool:
    """Whether a run's settings are derived from its images: not those of recipe `paper`, nor of its datasets in full.

    Args:
        name: of the recipe.
        dataset: its name, as `--dataset` gives it.
        images: that are trained on.
        overfit: the number of `--overfit`, whose runs have settings of their own.
    """
    return bool(overfit) or (name == "fast" and not is_full(dataset, images))


def of_run(run: RunSettings, batch_size: int | None = None) -> Recipe:
    """Return the recipe that a run's command would have today, without its overrides.

    Args:
        run: whose recipe, model, images and weights count.
        batch_size: of the command line, from which other settings follow.
    """
    recipe = recipes.get(run.recipe, run.model, run.dataset)
    images = run.train_images or run.overfit
    if images is None or not follows_from_data(run.recipe, run.dataset, images, run.overfit):
        return recipe if batch_size is None else replace(recipe, batch_size=batch_size)
    if run.overfit:
        return by_heart(recipe, images, batch_size=batch_size)
    pretrained = run.pretrained is not None
    return fitted(recipe, dataset=run.dataset, images=images, pretrained=pretrained, batch_size=batch_size)


def fitted(
    recipe: Recipe,
    *,
    dataset: str,
    images: int,
    pretrained: bool,
    new_classifier: bool = True,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    pieces: int = 1,
) -> Recipe:
    """Fit recipe `fast` to a dataset other than the paper's in full.

    Args:
        recipe: of the model and the dataset, as `recipes.get` gives it. Its peak rate and batch size tell which rate
            the network bears.
        dataset: its name, as `--dataset` gives it.
        images: that are trained on.
        pretrained: whether the weights come from elsewhere.
        new_classifier: whether these weights are of other classes, so that the classifier starts anew.
        epochs: the command line's; None: what follows from the data. So are the next two.
        batch_size: images per optimiser step.
        learning_rate: the peak rate.
        pieces: that each batch is cut into, by processes and micro-batches. A derived batch has four images for each.
    """
    many = images >= MANY_IMAGES and not pretrained  # about as many as the recipe was chosen for
    batch = batch_size or max(recipe.batch_size if many else _batch_size(images), least_batch(pieces))
    steps = steps_per_epoch(images, batch)
    peak = recipe.learning_rate if many else _peak(recipe, batch, images, pretrained)
    return replace(
        recipe,
        epochs=epochs or (recipe.epochs if many else _epochs(steps, pretrained)),
        batch_size=batch,
        learning_rate=learning_rate or peak,
        clip_norm=1.0 if pretrained else recipe.clip_norm or (0.0 if many else 2.0),
        # Few steps leave no time to get used to another size, and pretrained weights know the full one.
        sizes=recipe.sizes if many else (),
        augmentation=_augmentation(recipe, dataset, pretrained, many),
        warm_up=FINE_TUNING_WARM_UP if pretrained else recipe.warm_up,
        fit_classifier=pretrained and new_classifier,
        keep_statistics=pretrained,
    )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the batches of an epoch: a remainder of less than half a batch is left out (`batches.batches`)."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (2 * rest >= batch_size))


def least_batch(pieces: int) -> int:
    """Return the smallest batch for so many pieces.

    BatchNorm needs two images in each piece, and the rest of an epoch counts as a batch from half of one on.
    """
    return 4 * pieces


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
    and 0.03 lose more); where they are not, larger rates may gain more (docs/recipe.md). Below 100 images it falls with
    their number: a few images tell too little about the features that others are to share.
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


def by_heart(
    recipe: Recipe,
    images: int,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    pieces: int = 1,
) -> Recipe:
    """Make a recipe with which each of the six networks learns `images` images by heart (`--overfit`).

    Small batches for many steps, and nothing that works against learning by heart: neither augmentation nor label
    smoothing nor weight decay. The clipped gradients let networks without norms take the rates of the others.
    """
    batch = batch_size or max(min(SMALLEST_BATCH, images), least_batch(pieces))
    return replace(
        recipe,
        epochs=epochs or math.ceil(BY_HEART_STEPS / steps_per_epoch(images, batch)),
        batch_size=batch,
        learning_rate=learning_rate or BY_HEART_RATE,
        schedule="one-cycle",
        linear_lr_scale=1.0,
        clip_norm=1.0,
        weight_decay=0.0,
        label_smoothing=0.0,
        sizes=(),
        augmentation=Augmentation(),
    )


def in_words(recipe: Recipe, images: int, pretrained: bool, overfit: bool) -> str:
    """Say in one line what was derived from the images, and from what."""
    words = [
        f"batches of {recipe.batch_size}",
        f"{recipe.epochs} epochs ({_steps(recipe, images):,} steps)",
        f"peak rate {recipe.learning_rate:g}",
    ]
    if recipe.clip_norm:
        words.append(f"gradients clipped to {recipe.clip_norm:g}")
    if not recipe.sizes:
        words.append("full input size")
    if overfit:
        return f"To learn {images:,} images by heart: {', '.join([*words, 'no augmentation'])}"
    if recipe.augmentation.flip == "none":
        words.append("no mirroring, as left and right may matter (--flip horizontal mirrors)")
    if recipe.fit_classifier:
        words.append("classifier fitted to frozen features first")
    if recipe.freeze:
        words.append("all other layers frozen")
    elif recipe.keep_statistics:
        words.append("BatchNorm statistics kept")
    weights = "pretrained weights" if pretrained else "random weights"
    return f"Derived from {images:,} training images and {weights}: {', '.join(words)}"


def warning(recipe: Recipe, images: int) -> str | None:
    """Warn of a run that takes few optimiser steps; None where it takes enough."""
    if (total := _steps(recipe, images)) >= FEW_STEPS:
        return None
    return f"Warning: {total} optimiser steps are few: a larger --epochs or a smaller --batch-size makes more of them"


def _steps(recipe: Recipe, images: int) -> int:
    return steps_per_epoch(images, recipe.batch_size) * recipe.epochs
