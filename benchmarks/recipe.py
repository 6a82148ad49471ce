"""Measure recipe `fast` against variants of it, one change at a time.

`python benchmarks/recipe.py [--model NAME] [--epochs N] [--seeds S ...] [TRIAL ...]`

Every trial trains the same network on the same images in the same order: CIFAR-10's training split without its
validation images, on which it is measured. It differs from the published recipe in what its name says: one of the
trials below, or numbers of the recipe, as in "learning_rate=0.05 clip_norm=5". The table shows the validation accuracy
of the last epoch; docs/recipe.md keeps the trials that decided the recipe.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from train.data import loading
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold
from train.training import models
from train.training.arguments import emulates_bf16
from train.training.loop import Options, Run
from train.training.recipes import Recipe, get
from zoo.catalog import NETWORKS


def changed(recipe: Recipe, trial: str) -> Recipe:
    """Return the recipe with a trial's change."""
    augmentation = recipe.augmentation
    changes: dict[str, dict] = {
        "as published": {},
        "Cutout, a quarter of the side": {"augmentation": replace(augmentation, cutout=0.25)},
        "rotation 10, scale 0.8 to 1.2": {
            "augmentation": replace(augmentation, rotation=10, shift=0.1, scale=(0.8, 1.2))
        },
        "scale 0.9 to 1.15, no rotation": {
            "augmentation": replace(augmentation, rotation=0, shift=0.125, scale=(0.9, 1.15))
        },
        "brightness, contrast, saturation 0.2": {
            "augmentation": replace(augmentation, brightness=0.2, contrast=0.2, saturation=0.2)
        },
        "flip drawn anew each epoch": {"augmentation": replace(augmentation, flip="random")},
        "peak learning rate 0.05": {"learning_rate": 0.05},
        "peak learning rate 0.4": {"learning_rate": 0.4},
        "batches of 128, peak 0.15": {"batch_size": 128, "learning_rate": 0.15},
        "batches of 512, peak 0.4": {"batch_size": 512, "learning_rate": 0.4},
        "no label smoothing": {"label_smoothing": 0.0},
        "full input size throughout": {"sizes": ()},
        "weight decay on all parameters": {"decay_norms_and_biases": True},
    }
    if trial in changes:
        return replace(recipe, **changes[trial])
    numbers = {field.name: field.type for field in fields(Recipe) if field.type in (int, float)}
    pairs = [word.partition("=")[::2] for word in trial.split()]
    try:
        return replace(recipe, **{name: numbers[name](value) for name, value in pairs})
    except (KeyError, ValueError):
        raise SystemExit(
            f"unknown trial {trial!r}: valid are {', '.join(map(repr, changes))}, "
            f"and NAME=NUMBER of {', '.join(numbers)}"
        ) from None


def train(model_name: str, dataset: loading.Dataset, recipe: Recipe, seed: int) -> tuple[float, float, float]:
    """Train once; return the last epoch's training (augmented) and validation accuracies, and the seconds."""
    set_seed(seed)
    model = models.create(model_name, "cifar10", num_classes=10, in_chans=3)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(model, dataset, recipe, accelerator, Path(folder), Options(seed=seed))
        run.train()
    accelerator.free_memory()
    row = run.progress.rows[-1]
    return row["train_accuracy"], row["validation_accuracy"], run.progress.train_seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/recipe.py", description=__doc__)
    parser.add_argument("trials", nargs="*", default=["as published"], metavar="TRIAL")
    parser.add_argument("--model", default="vanilla_resnet18", choices=NETWORKS)
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--data-dir", type=Path, help="holds cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    args = parser.parse_args()
    keep_freed_memory()
    base = replace(get("fast", args.model, "cifar10"), epochs=args.epochs)
    if emulates_bf16():
        base = replace(base, mixed_precision="no")
    recipes = {trial: changed(base, trial) for trial in args.trials}
    side = models.input_config(models.tagged(args.model, "cifar10"))["input_size"][-1]
    dataset = loading.load("cifar10", args.data_dir, side)
    lines = ["| trial | validation, % | training, % | seconds |", "|---|---|---|---|"]
    for trial, recipe in recipes.items():
        found = [train(args.model, dataset, recipe, seed) for seed in args.seeds]
        training, validation, seconds = zip(*found, strict=True)
        spread = f" ± {statistics.stdev(validation):.2f}" if len(found) > 1 else ""
        lines.append(
            f"| {trial} | {statistics.mean(validation):.2f}{spread} | {statistics.mean(training):.2f} "
            f"| {statistics.mean(seconds):.0f} |"
        )
    print(f"{args.model}, {args.epochs} epochs, seeds {' '.join(map(str, args.seeds))}\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
