"""Fine-tuning and training on small folders of images: the recipe as it is and the defaults that fit the data.

`python benchmarks/own_images.py [--small] [--data-dir DIR] [--seeds S ...] [--results FILE]`

Each situation is a folder of PNG files, made of images that the published CIFAR-10 weights were not trained on:
held-out CIFAR-10 images ("objects"), MNIST digits ("digits"), or an object with a digit in its lower right quarter,
where each pair is a class of its own ("pairs": 20 classes are ten objects and two digits, 100 are all pairs). No image
of the test splits is used when DIR holds the full datasets; the shipped samples hold no others that the weights do not
know.

Prints a Markdown table of validation accuracies: of a linear classifier on frozen features, of recipe `fast` unchanged,
and of the fitted defaults after the first epoch and at the end, each as mean and range over the seeds. Results are
appended to FILE, and situations that it holds already are not measured again.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from train.data import loading
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold
from train.training import defaults, fine_tuning, loop, models, recipes
from train.training.arguments import emulates_bf16
from train.training.progress import LossError
from train.training.recipes import Recipe

SAMPLES = Path(__file__).resolve().parents[1] / "train" / "samples"
VALIDATION_IMAGES = 200
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Situation:
    """One row of the table.

    Attributes:
        kind: "objects", "digits" or "pairs".
        per_class: training images of each class. Of objects there are at most 400.
        side: of the image files, in pixels.
        epochs: as `--epochs` would say; None for the default.
    """

    kind: str
    classes: int
    per_class: int
    side: int
    model: str
    pretrained: bool
    epochs: int | None


# Around the second, one thing changes at a time.
SMALL = (
    Situation("digits", 2, 5, 32, "vanilla_resnet18", True, 30),
    Situation("digits", 5, 20, 64, "vanilla_resnet18", True, 5),
    Situation("digits", 5, 20, 64, "vanilla_resnet18", False, 30),
)
FULL = (
    *SMALL,
    Situation("digits", 5, 50, 64, "vanilla_resnet18", True, 1),
    Situation("digits", 5, 50, 64, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 50, 64, "improved_resnet18", True, 5),
    Situation("objects", 5, 50, 200, "improved_googlenet", True, 5),
    Situation("objects", 5, 50, 64, "vanilla_googlenet", True, 5),
    Situation("objects", 2, 100, 500, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 5, 64, "vanilla_resnet18", True, 30),
    Situation("objects", 2, 20, 32, "vanilla_vgg16", True, 5),
    Situation("pairs", 20, 20, 32, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 20, 32, "vanilla_googlenet", False, 30),
    Situation("digits", 2, 50, 32, "vanilla_vgg16", False, 30),
    Situation("pairs", 100, 5, 32, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 500, 32, "vanilla_resnet18", True, 1),
    Situation("digits", 2, 20, 32, "vanilla_resnet18", True, None),
    Situation("pairs", 20, 100, 32, "vanilla_resnet18", True, 5),
    Situation("pairs", 100, 20, 32, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 100, 32, "vanilla_resnet18", False, 30),
)


def images_by_class(name: str, data_dir: Path) -> list[np.ndarray]:
    """Collect the images of a dataset that the published CIFAR-10 weights were not trained on.

    Returns:
        For each class, uint8 RGB [n, 32, 32, 3].
    """
    dataset = loading.load(name, data_dir)
    if defaults.is_full(name, len(dataset.train)):
        splits = [dataset.validation]
    else:
        splits = [dataset.test] if name == "cifar10" else [dataset.train, dataset.validation, dataset.test]
    images = torch.cat([split.images for split in splits]).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    if images.shape[1] != 32:
        images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    labels = torch.cat([split.labels for split in splits]).numpy()
    return [images[labels == label] for label in range(len(dataset.class_names))]


def make_folder(situation: Situation, data_dir: Path, folder: Path, seed: int) -> None:
    """Write `train/` and `test/`, the latter to validate on, each with a sub-folder for each class."""
    generator = np.random.default_rng(seed)
    first = images_by_class("mnist" if situation.kind == "digits" else "cifar10", data_dir)
    digits = images_by_class("mnist", data_dir) if situation.kind == "pairs" else first
    held_out = max(1, VALIDATION_IMAGES // situation.classes)
    for split, wanted in (("train", situation.per_class), ("test", held_out)):
        for label in range(situation.classes):
            images = _part(first[label % 10], split)
            if situation.kind == "pairs":
                images = images[generator.integers(0, len(images), wanted)]
                others = _part(digits[label // 10], split)
                others = others[generator.integers(0, len(others), wanted)]
                images = _paired(images, others)
            else:
                images = images[generator.permutation(len(images))[:wanted]]
            place = folder / split / f"class{label:03}"
            place.mkdir(parents=True)
            for i, pixels in enumerate(images):
                image = PIL.Image.fromarray(pixels)
                image.resize((situation.side, situation.side), PIL.Image.Resampling.BILINEAR).save(place / f"{i}.png")


def _part(images: np.ndarray, split: str) -> np.ndarray:
    """A fifth of the images is held out."""
    cut = len(images) // 5
    return images[:cut] if split == "test" else images[cut:]


def _paired(images: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Put the middle of each digit onto the darkened lower right of an image."""
    images = images.copy()
    images[:, 13:31, 13:31] = np.maximum(images[:, 13:31, 13:31] // 2, digits[:, 7:25, 7:25])
    return images


def load_folder(folder: Path, side: int) -> loading.Dataset:
    """Load it with its `test/` as the validation split and all of `train/` to train on."""
    dataset = loading.load(str(folder), image_size=side)
    train = loading.Split(
        torch.cat([dataset.train.images, dataset.validation.images]),
        torch.cat([dataset.train.labels, dataset.validation.labels]),
    )
    return replace(dataset, train=train, validation=dataset.test)


def new_model(situation: Situation, dataset: loading.Dataset, seed: int) -> torch.nn.Module:
    set_seed(seed)
    weights = "published" if situation.pretrained else None
    model = models.create(situation.model, "folder", len(dataset.class_names), 3, weights)
    if situation.pretrained:
        model.reset_classifier(len(dataset.class_names))
    return model


def linear_accuracy(situation: Situation, dataset: loading.Dataset, seed: int) -> float | None:
    """Fit a linear classifier to the features of the published weights: validation accuracy in percent."""
    if not situation.pretrained:
        return None
    model = new_model(situation, dataset, seed)
    fine_tuning.fit_classifier(model, dataset.train, 0.1, CPU)
    seen = fine_tuning.features(model, dataset.validation, CPU)
    layer = fine_tuning.classifier(model)
    assert layer is not None
    correct = layer(seen).argmax(1) == dataset.validation.labels
    return 100 * int(correct.sum()) / len(correct)


def train(situation: Situation, dataset: loading.Dataset, recipe: Recipe, seed: int) -> list[float]:
    """Train as `fit.py` does: validation accuracy after each epoch in percent; none where the loss became infinite."""
    model = new_model(situation, dataset, seed)
    if recipe.fit_classifier:
        fine_tuning.fit_classifier(model, dataset.train, recipe.label_smoothing, CPU)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    accelerator = Accelerator(mixed_precision="no" if emulates_bf16() else recipe.mixed_precision, cpu=True)
    set_seed(seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = loop.Run(model, dataset, recipe, accelerator, Path(folder), loop.Options(seed=seed, save_minutes=1e6))
            run.train()
    except LossError:
        return []
    finally:
        accelerator.free_memory()
    return [row["validation_accuracy"] for row in run.progress.rows]


def measure(situation: Situation, data_dir: Path, seed: int) -> dict[str, Any]:
    """Everything that the table says of one situation and seed."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(situation, data_dir, Path(folder), seed)
        side = models.input_config(models.tagged(situation.model, "folder"))["input_size"][-1]
        dataset = load_folder(Path(folder), side)
    present = recipes.get("fast", situation.model, "folder")
    fitted = defaults.fitted(
        present,
        dataset="folder",
        images=len(dataset.train),
        pretrained=situation.pretrained,
        epochs=situation.epochs,
    )
    before = train(situation, dataset, replace(present, epochs=situation.epochs or present.epochs), seed)
    after = train(situation, dataset, fitted, seed)
    return {
        "linear": linear_accuracy(situation, dataset, seed),
        "present": before[-1] if before else None,
        "first": after[0] if after else None,
        "last": after[-1] if after else None,
        "steps": fitted.epochs * defaults.steps_per_epoch(len(dataset.train), fitted.batch_size),
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The results as a Markdown table, a line for each situation."""
    by_situation: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_situation.setdefault(json.dumps(row["situation"]), []).append(row)
    lines = [
        "| images | classes | per class | side | network | weights | epochs | steps | seeds | linear | present "
        "| first epoch | end |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, found in by_situation.items():
        situation = Situation(**json.loads(key))
        cells = [
            situation.kind,
            situation.classes,
            situation.per_class,
            situation.side,
            situation.model,
            "published" if situation.pretrained else "random",
            situation.epochs or "default",
            found[0]["steps"],
            len(found),
            *(_summary([row[name] for row in found]) for name in ("linear", "present", "first", "last")),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _summary(values: list[float | None]) -> str:
    """The mean and, of several, the range; a run whose loss became infinite counts as none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/own_images.py", description=__doc__)
    parser.add_argument("--small", action="store_true", help="three situations on the shipped samples, in minutes")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: the shipped samples)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--results", type=Path, default=Path("runs/own_images.jsonl"), help="default: %(default)s")
    args = parser.parse_args()
    keep_freed_memory()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.is_file() else []
    known = {json.dumps([row["situation"], row["seed"]]) for row in rows}
    situations = SMALL if args.small else FULL
    for seed in args.seeds:
        for situation in situations:
            if json.dumps([asdict(situation), seed]) in known:
                continue
            row = {"situation": asdict(situation), "seed": seed, **measure(situation, args.data_dir or SAMPLES, seed)}
            rows.append(row)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
