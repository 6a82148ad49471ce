"""Recipes: the paper's (section 5.1) to the letter, and `fast`, a faster and more accurate one of ours.

`FAST` is the table to read and to add rows to.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from train import records
from train.data.augment import Augmentation
from train.errors import UserError

RECIPES = ("paper", "fast")
Sizes = tuple[tuple[float, float], ...]


class RecipeError(UserError):
    """There is no recipe of this name."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run beside the model, the data and the seed.

    Attributes:
        batch_size: images per optimiser step, over all processes and micro-batches together.
        learning_rate: the fixed rate, the rate before the first milestone, or the peak of the one-cycle schedule.
        linear_lr_scale: factor of the learning rate for linear layers.
        clip_norm: largest norm of a batch's gradient, which is scaled down to it; 0: no clipping.
        milestones: epochs (counted from 1, as in the paper's logs) at whose start the rate is divided by ten; 3.5 is
            the middle of epoch 3.
        decay_norms_and_biases: whether weight decay applies to vectors too.
        label_smoothing: share alpha of the target spread evenly over all classes, in PyTorch's form: the true class
            has 1 - alpha + alpha / k, each other one alpha / k.
        side: of the square input, in pixels, in place of the network's own; None keeps the network's own.
        sizes: progressive input sizes: (share of the epochs, share of the side) pairs, each in force until its share
            of the epochs is done; then the full size. See `input_size`.
        mixed_precision: the default; `--mixed-precision` and `accelerate launch` override it.
        warm_up: share of the one-cycle schedule in which the rate rises.
        fit_classifier: begin with a classifier fitted to frozen features (`fine_tuning.fit_classifier`).
        keep_statistics: leave BatchNorm's running statistics as they are (`fine_tuning.keep_statistics`).
        freeze: train the classifier alone (`fine_tuning.freeze`).
    """

    epochs: int
    learning_rate: float
    schedule: Literal["fixed", "milestones", "one-cycle"]
    linear_lr_scale: float = 1.0
    clip_norm: float = 0.0
    batch_size: int = 128
    milestones: tuple[float, ...] = ()
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = True
    label_smoothing: float = 0.0
    side: int | None = None
    sizes: Sizes = ()
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    augmentation: Augmentation = field(default_factory=Augmentation)
    warm_up: float = 0.2
    fit_classifier: bool = False
    keep_statistics: bool = False
    freeze: bool = False


def of_settings(settings: dict[str, Any], source: Path = Path("args.json")) -> Recipe:
    """Rebuild a recipe from the settings that a run recorded.

    Fields that were added since take their defaults; fields that were removed are ignored.

    Args:
        settings: as `as_settings` gives them.
        source: the file that holds them, for the error.

    Raises:
        FileError: a field is missing or has a value of the wrong type.
    """
    return records.parse(Recipe, settings, source)


def as_settings(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe as a run records them: JSON's types, lists for tuples."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return settings


def get(name: str, model: str, dataset: str) -> Recipe:
    """The recipe of this name for a model (with or without a tag) and a dataset.

    Raises:
        RecipeError: there is no recipe of this name.
    """
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}: valid are {', '.join(map(repr, RECIPES))}")
    network = model.partition(".")[0]
    if name == "fast":
        network = network if (network, OTHER) in FAST else OTHER
        return FAST[network, dataset if (network, dataset) in FAST else OTHER]
    if network.startswith("improved_"):
        return PAPER_IMPROVED_MNIST if dataset == "mnist" else PAPER_IMPROVED
    return PAPER_VANILLA if network.startswith("vanilla_") else replace(PAPER_VANILLA, side=None)


# Section 5.1, "Vanilla Models". It names no weight decay, no augmentation and no schedule, so there is none.
# Where the paper says nothing, for both kinds of networks:
# - The weights of the last epoch are kept. The paper's logs mark the best epoch on validation, its tables do not say
#   which one they used; the last needs no choice.
# - GoogLeNet trains without its auxiliary heads, which section 2 calls optional; `aux_logits=True` trains with them.
#   Neither its text nor its logs mention them, and they are not what separates our runs from its logs (docs/recipe.md).
# - Training is in float32: no other precision is mentioned. An epoch's last batch is the smaller rest, as PyTorch's
#   loader gives it: 80 images of MNIST's 50,000, 72 of CIFAR-10's 45,000. Other datasets lose a rest of less than half
#   a batch, which BatchNorm could make little of.
# - Both kinds are normalised. Section 5.1 says so under augmentation, which "only applied to the proposed models", but
#   "regardless of the dataset" and of training data as such, and at inference it names the resize alone, which no
#   normalised network could do with.
# - The deep stem's widths are 32, 32 and 64, those of ResNet-C: section 4 gives none, only "the same dimensions".
# - The vanilla networks see 64x64. Section 5.1 resizes as part of the augmentation, which only the improved networks
#   have, but gives 64 as the "necessary size" of inference, and the logs of its vanilla ResNet18 and GoogLeNet are
#   reached at 64x64, not at the 32x32 that the published vanilla networks see (docs/recipe.md). Other models keep
#   their own size.
PAPER_VANILLA = Recipe(epochs=50, learning_rate=0.001, schedule="fixed", side=64)

# Section 5.1, "Improved Models" and "Data augmentation". Where the paper says nothing or contradicts itself:
# - alpha = 0.1: the loss in its logs flattens at 0.50, the entropy of ten classes smoothed by 0.1 (0.5003). Its
#   formula, alpha * mean + (1 - alpha) * nll, is PyTorch's `label_smoothing=0.1` when the mean is over the classes.
# - The rate falls after epochs 5, 27, 40 and 47, so when epochs 6, 28, 41 and 48 begin, counted from 1. The rates in
#   its logs, `[1e-05]` and `[1.0000000000000002e-06]`, are the products that PyTorch's MultiStepLR prints. Stepped
#   after each epoch, it lowers the rate after as many epochs as its milestones say. The logs (0.001 in epoch 9, 1e-5 in
#   epoch 44) do not decide between this and an epoch earlier, which older runs followed; REPORT.md marks them.
# - The text around the formula gives the true class 1 - alpha; by the formula, which is followed here, it has
#   1 - alpha + alpha / k.
# - Brightness, contrast and saturation change in this order, before the resize. torchvision's transform draws an order
#   for each image, which changes little and would not allow whole batches at once.
# - Rotation, shear, shift and scale are one bilinear resampling. torchvision's RandomAffine takes the nearest pixel
#   unless it is told otherwise; the paper names bilinear interpolation, though for the resize.
# - "Rotated by 15 degrees" is a rotation drawn from -15 to 15, as torchvision's transforms take the number; shear,
#   shift, brightness, contrast and saturation likewise. The horizontal flip has torchvision's probability of 1/2.
PAPER_IMPROVED = Recipe(
    epochs=50,
    learning_rate=0.01,
    schedule="milestones",
    milestones=(6, 28, 41, 48),
    weight_decay=4e-5,
    label_smoothing=0.1,
    augmentation=Augmentation(
        flip="random",
        rotation=10,
        shear=10,
        shift=0.1,
        scale=(0.8, 1.2),
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    ),
)
PAPER_IMPROVED_MNIST = replace(PAPER_IMPROVED, augmentation=Augmentation(rotation=15, shift=0.1, scale=(0.8, 1.2)))


def _fast(
    epochs: int, batch_size: int, peak: float, clip: float, linear: float, sizes: Sizes, augmentation: Augmentation
) -> Recipe:
    """One cycle up and down, Nesterov, weight decay on matrices only, label smoothing, bf16; see `Recipe`."""
    return Recipe(
        epochs=epochs,
        learning_rate=peak,
        schedule="one-cycle",
        linear_lr_scale=linear,
        clip_norm=clip,
        batch_size=batch_size,
        nesterov=True,
        weight_decay=5e-4,
        decay_norms_and_biases=False,
        label_smoothing=0.1,
        sizes=sizes,
        mixed_precision="bf16",
        augmentation=augmentation,
    )


OTHER = "other"  # any model or dataset that has no row of its own

# Input sizes. The improved networks' 64x64 has four times the pixels of 32x32; other models may accept one size only.
_FULL: Sizes = ()
_GROWS: Sizes = ((0.5, 0.5), (0.75, 0.75))  # 32x32, then 48x48, then 64x64
# VGG16's last map is 1x1 at 48x48 too, so that size is skipped; adapting to 2x2 takes a rate that is still high.
_JUMPS: Sizes = ((0.5, 0.5),)

_DIGIT = Augmentation(rotation=10, shear=5, shift=0.1, scale=(0.85, 1.15))
_LIGHT = Augmentation(flip="alternating", shift=0.125, scale=(0.9, 1.15))
_PLAIN = Augmentation(flip="alternating", rotation=10, shift=0.1, scale=(0.8, 1.2))
# The improved networks overfit before they stop getting better, and the vanilla GoogLeNet most of all.
_CUT25 = replace(_PLAIN, cutout=0.25)
_CUT40 = replace(_PLAIN, cutout=0.4)
_COLOR = replace(_CUT40, brightness=0.2, contrast=0.2, saturation=0.2)

# A row for each network and dataset; the last three for all other models. Whole runs chose epochs, batch size and peak
# rate of mnist and cifar10 (docs/recipe.md); other datasets may have too few images for batches of 512.
# - clip: the vanilla VGG16 has no norm at all: from a rate of 0.01 on it falls back to chance without clipping. The
#   vanilla GoogLeNet's loss jumps at 0.15, and in long runs from 0.03 on.
# - linear: the improved VGG16's three linear layers have no norm: at 0.15 its loss soon becomes infinite.
# fmt: off
FAST = {
    # network, dataset                  epochs batch  peak  clip linear  sizes  augmentation
    ("vanilla_vgg16",      "mnist"):   _fast( 8, 128, 0.06, 2.0, 1.0, _FULL,  _DIGIT),
    ("vanilla_vgg16",      "cifar10"): _fast(30, 128, 0.06, 2.0, 1.0, _FULL,  _PLAIN),
    ("vanilla_vgg16",      OTHER):     _fast(30, 128, 0.06, 2.0, 1.0, _FULL,  _PLAIN),
    ("vanilla_resnet18",   "mnist"):   _fast( 8, 128, 0.15, 0.0, 1.0, _FULL,  _DIGIT),
    ("vanilla_resnet18",   "cifar10"): _fast(40, 512, 0.4,  0.0, 1.0, _FULL,  _LIGHT),
    ("vanilla_resnet18",   OTHER):     _fast(30, 128, 0.15, 0.0, 1.0, _FULL,  _LIGHT),
    ("vanilla_googlenet",  "mnist"):   _fast( 8, 128, 0.08, 2.0, 1.0, _FULL,  _DIGIT),
    ("vanilla_googlenet",  "cifar10"): _fast(70, 512, 0.15, 2.0, 1.0, _FULL,  _COLOR),
    ("vanilla_googlenet",  OTHER):     _fast(30, 128, 0.08, 2.0, 1.0, _FULL,  _COLOR),
    ("improved_vgg16",     "mnist"):   _fast(30, 128, 0.1,  0.0, 0.2, _JUMPS, _DIGIT),
    ("improved_vgg16",     "cifar10"): _fast(50, 256, 0.15, 0.0, 0.2, _JUMPS, _CUT25),
    ("improved_vgg16",     OTHER):     _fast(30, 128, 0.1,  0.0, 0.2, _JUMPS, _CUT25),
    ("improved_resnet18",  "mnist"):   _fast(30, 128, 0.15, 0.0, 1.0, _GROWS, _DIGIT),
    ("improved_resnet18",  "cifar10"): _fast(64, 512, 0.4,  0.0, 1.0, _GROWS, _CUT40),
    ("improved_resnet18",  OTHER):     _fast(30, 128, 0.15, 0.0, 1.0, _GROWS, _CUT40),
    ("improved_googlenet", "mnist"):   _fast(24, 512, 0.4,  0.0, 1.0, _GROWS, _DIGIT),
    ("improved_googlenet", "cifar10"): _fast(60, 128, 0.15, 0.0, 1.0, _GROWS, _CUT25),
    ("improved_googlenet", OTHER):     _fast(60, 128, 0.15, 0.0, 1.0, _GROWS, _CUT25),
    (OTHER,                "mnist"):   _fast( 8, 128, 0.15, 0.0, 1.0, _FULL,  _DIGIT),
    (OTHER,                "cifar10"): _fast(30, 128, 0.15, 0.0, 1.0, _FULL,  _PLAIN),
    (OTHER,                OTHER):     _fast(30, 128, 0.15, 0.0, 1.0, _FULL,  _PLAIN),
}
# fmt: on


def of_length(recipe: Recipe, epochs: int) -> Recipe:
    """Give a recipe another number of epochs. Its milestones keep their share of the training."""
    if epochs == recipe.epochs:
        return recipe
    milestones = tuple(1 + (milestone - 1) * epochs / recipe.epochs for milestone in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=milestones)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimiser step `step`, counted from 0.

    It depends on the step alone: a scheduler's state could differ from the optimiser's after a resume, and Accelerate
    would step it once for every process.
    """
    if recipe.schedule == "fixed":
        return recipe.learning_rate
    if recipe.schedule == "milestones":
        epoch = step / steps_per_epoch + 1
        return recipe.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)
    done = (step + 0.5) / (recipe.epochs * steps_per_epoch)
    up = recipe.warm_up  # of the run, linearly; then half a cosine down to nothing
    return recipe.learning_rate * (done / up if done < up else 0.5 * (1 + math.cos(math.pi * (done - up) / (1 - up))))


def input_size(recipe: Recipe, epoch: int, full: tuple[int, int]) -> tuple[int, int]:
    """Height and width, in pixels, of the input that an epoch trains and validates on.

    Args:
        recipe: whose `sizes` are followed.
        epoch: counted from 0.
        full: (height, width) that every run ends with.
    """
    for until, share in recipe.sizes:
        if epoch + 1 <= until * recipe.epochs:
            # Multiples of 8, and at least 32: the networks halve the size five times.
            height, width = (min(side, max(32, 8 * round(share * side / 8))) for side in full)
            return height, width
    return full
