"""Fine-tuning and training on small sets of images: the recipe as it is and the defaults that fit the data.

`python benchmarks/own_images.py [--small] [--data-dir DIR] [--seeds S ...] [--results FILE]`

Each situation is made of images that the published CIFAR-10 weights were not trained on: held-out CIFAR-10 images
("objects"), MNIST digits ("digits"), or an object with a digit in its lower right quarter, where each pair is a class
of its own ("pairs": 20 classes are ten objects and two digits, 100 are all pairs). No image of the test splits is used
when DIR holds the full datasets; the shipped samples hold no others that the weights do not know. As `fit.py` would,
a situation holds out one image to validate for eight to train on.

Prints Markdown tables of accuracies on some 500 further images: of a linear classifier on frozen features, of recipe
`fast` unchanged (in the first three situations, seed 0), and of the fitted defaults after the first epoch and at the
end, as mean and range over the seeds; then the same with one derived setting changed. Results are appended to FILE, and
what it holds is not measured again.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from train.data import loading
from train.data.decoding import fit
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold
from train.training import defaults, fine_tuning, loop, models, recipes
from train.training.arguments import emulates_bf16
from train.training.averaging import SHARE
from train.training.progress import LossError
from train.training.recipes import Recipe

SAMPLES = Path(__file__).resolve().parents[1] / "train" / "samples"
TEST_IMAGES = 500
# Training images for each that is held out to validate.
TO_VALIDATE = 8
CPU = torch.device("cpu")
Row = dict[str, Any]


@dataclass(frozen=True)
class Situation:
    """One row of a table.

    Attributes:
        kind: "objects", "digits" or "pairs".
        per_class: training images of each class. Of objects there are at most 400.
        side: of the images, in pixels.
        epochs: as `--epochs` would say; None for the default.
        change: of a derived setting, in `CHANGES`; empty for none.
    """

    kind: str
    classes: int
    per_class: int
    side: int
    model: str
    pretrained: bool
    epochs: int | None
    change: str = ""


CHANGES: dict[str, Callable[[Recipe], Recipe]] = {
    "": lambda recipe: recipe,
    "mirrored": lambda recipe: replace(recipe, augmentation=replace(recipe.augmentation, flip="alternating")),
    "half as long": lambda recipe: replace(recipe, epochs=max(1, recipe.epochs // 2)),
    "twice as long": lambda recipe: replace(recipe, epochs=2 * recipe.epochs),
    "a third of the rate": lambda recipe: replace(recipe, learning_rate=recipe.learning_rate / 3),
    "three times the rate": lambda recipe: replace(recipe, learning_rate=3 * recipe.learning_rate),
}
SMALL = (
    Situation("digits", 2, 5, 32, "vanilla_resnet18", True, 30),
    Situation("digits", 5, 20, 64, "vanilla_resnet18", True, 5),
    Situation("digits", 5, 20, 64, "vanilla_resnet18", False, 30),
)
FULL = (
    *SMALL,
    Situation("digits", 5, 100, 32, "vanilla_resnet18", True, 1),
    Situation("digits", 5, 100, 32, "vanilla_resnet18", True, 5),
    Situation("digits", 5, 20, 32, "vanilla_vgg16", True, 5),
    Situation("objects", 5, 5, 64, "vanilla_resnet18", True, 30),
    Situation("objects", 5, 20, 200, "improved_googlenet", True, 5),
    Situation("objects", 5, 100, 64, "improved_resnet18", True, 1),
    Situation("objects", 5, 100, 64, "vanilla_googlenet", True, 5),
    Situation("objects", 2, 100, 500, "vanilla_resnet18", True, 5),
    Situation("objects", 5, 500, 32, "vanilla_resnet18", True, 1),
    Situation("pairs", 20, 20, 32, "vanilla_resnet18", True, 5),
    Situation("pairs", 20, 100, 32, "vanilla_resnet18", True, 1),
    Situation("pairs", 100, 5, 32, "vanilla_resnet18", True, 5),
    Situation("digits", 5, 100, 32, "vanilla_resnet18", False, 1),
    Situation("digits", 2, 100, 32, "vanilla_vgg16", False, 5),
    Situation("objects", 5, 20, 32, "vanilla_googlenet", False, 30),
    Situation("digits", 2, 20, 32, "vanilla_resnet18", True, None),
    Situation("pairs", 20, 20, 32, "vanilla_resnet18", True, None),
    Situation("digits", 5, 20, 32, "vanilla_resnet18", False, None),
    Situation("objects", 5, 100, 32, "vanilla_resnet18", False, None),
)
_ALL_DIGITS = Situation("digits", 10, 20, 32, "vanilla_resnet18", True, 5)
_PAIRS = Situation("pairs", 20, 20, 32, "vanilla_resnet18", True, 5)
_FROM_RANDOM = Situation("digits", 5, 20, 32, "vanilla_resnet18", False, None)
CHANGED = (
    _ALL_DIGITS,
    replace(_ALL_DIGITS, change="mirrored"),
    *(replace(_PAIRS, change=change) for change in ("mirrored", "a third of the rate", "three times the rate")),
    *(replace(_PAIRS, epochs=None, change=change) for change in ("half as long", "twice as long")),
    *(replace(_FROM_RANDOM, change=change) for change in ("half as long", "twice as long")),
)


@cache
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


def make_dataset(situation: Situation, data_dir: Path, seed: int) -> loading.Dataset:
    """Make the images of a situation, cropped and resized to the network's input as those of a folder are."""
    generator = np.random.default_rng(seed)
    first = images_by_class("mnist" if situation.kind == "digits" else "cifar10", data_dir)
    digits = images_by_class("mnist", data_dir) if situation.kind == "pairs" else first
    side = models.input_config(models.tagged(situation.model, "folder"))["input_size"][-1]
    splits = []
    validated = max(1, situation.per_class // TO_VALIDATE)
    tested = max(1, TEST_IMAGES // situation.classes)
    for split, wanted in (("train", situation.per_class), ("held out", validated + tested)):
        found: list[np.ndarray] = []
        labels: list[int] = []
        for label in range(situation.classes):
            images = _part(first[label % 10], split)
            if situation.kind == "pairs":
                images = images[generator.integers(0, len(images), wanted)]
                others = _part(digits[label // 10], split)
                images = _paired(images, others[generator.integers(0, len(others), wanted)])
            else:
                images = images[generator.permutation(len(images))[:wanted]]
            found += [_resized(pixels, situation.side, side) for pixels in images]
            labels += [label] * len(images)
        splits.append(loading.Split(torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2)), torch.tensor(labels)))
    train, rest = splits
    chosen = torch.zeros(len(rest), dtype=torch.bool)
    for label in range(situation.classes):
        chosen[(rest.labels == label).nonzero()[:validated, 0]] = True
    validation, test = (loading.Split(rest.images[rows], rest.labels[rows]) for rows in (chosen, ~chosen))
    names = tuple(f"class{label:03}" for label in range(situation.classes))
    return loading.Dataset("folder", names, train, validation, test)


def _resized(pixels: np.ndarray, side: int, network_side: int) -> np.ndarray:
    image = PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.BILINEAR)
    return np.asarray(fit(image, network_side))


def _part(images: np.ndarray, split: str) -> np.ndarray:
    """A fifth of the images is held out."""
    cut = len(images) // 5
    return images[cut:] if split == "train" else images[:cut]


def _paired(images: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Put the middle of each digit onto the darkened lower right of an image."""
    images = images.copy()
    images[:, 13:31, 13:31] = np.maximum(images[:, 13:31, 13:31] // 2, digits[:, 7:25, 7:25])
    return images


def new_model(situation: Situation, dataset: loading.Dataset, seed: int) -> torch.nn.Module:
    set_seed(seed)
    weights = "published" if situation.pretrained else None
    model = models.create(situation.model, "folder", len(dataset.class_names), 3, weights)
    if situation.pretrained:
        model.reset_classifier(len(dataset.class_names))
    return model


def accuracy(model: torch.nn.Module, split: loading.Split) -> float:
    """The model's accuracy on a split, in percent."""
    seen = fine_tuning.features(model, split, CPU)
    layer = fine_tuning.classifier(model)
    assert layer is not None
    with torch.no_grad():
        return 100 * int((layer(seen).argmax(1) == split.labels).sum()) / len(split)


class Run(loop.Run):
    """A run without states and plots, which evaluates after its first and last epoch: most of a small run's time.

    Attributes:
        tested: the accuracy on the test split of the weights to keep, after these epochs.
        kept: their share of the training, after the last one.
    """

    def __init__(self, model: torch.nn.Module, dataset: loading.Dataset, *args: Any) -> None:
        self.twin = copy.deepcopy(model)  # to be evaluated without mixed precision, as `fit.py` does at the end
        super().__init__(model, dataset, *args)
        self.test = dataset.test
        self.tested: list[float] = []
        self.kept: float | None = None

    def validated(self) -> dict[str, float]:
        if self.progress.epoch in (0, self.recipe.epochs - 1):
            return super().validated()
        return {**self.progress.rows[-1], "epoch": self.progress.epoch + 1}

    def end_epoch(self, row: dict[str, float]) -> None:
        if self.progress.epoch in (0, self.recipe.epochs - 1):
            model = self.accelerator.unwrap_model(self.model)
            self.twin.load_state_dict(model.state_dict())
            self.tested.append(accuracy(self.twin, self.test))
            if self.averaging is not None:
                self.kept = row[SHARE]
                self.averaging.restore(model)
        self.progress.end_epoch(row)


def train(situation: Situation, dataset: loading.Dataset, recipe: Recipe, seed: int) -> Row:
    """Train as `fit.py` does, and return the accuracies on the test split in percent.

    They are those of the classifier on frozen features ("linear"), after the first and after the last epoch; "kept" is
    the share of the training that was kept. What is not known, or not finite, is None.
    """
    model = new_model(situation, dataset, seed)
    found: Row = dict.fromkeys(("linear", "first", "last", "kept"))
    if recipe.fit_classifier:
        fine_tuning.fit_classifier(model, dataset.train, recipe.label_smoothing, CPU)
        found["linear"] = accuracy(model, dataset.test)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    accelerator = Accelerator(mixed_precision="no" if emulates_bf16() else recipe.mixed_precision, cpu=True)
    set_seed(seed)
    options = loop.Options(seed=seed, save_minutes=1e6)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(model, dataset, recipe, accelerator, Path(folder), options)
            run.train()
    except LossError:
        return found
    finally:
        accelerator.free_memory()
    return found | {"first": run.tested[0], "last": run.tested[-1], "kept": run.kept}


def measure(situation: Situation, data_dir: Path, seed: int, unchanged: bool = False) -> Row:
    """Everything that the tables say of one situation and seed; of recipe `fast` unchanged too, if asked for."""
    dataset = make_dataset(situation, data_dir, seed)
    present = recipes.get("fast", situation.model, "folder")
    fitted = defaults.fitted(
        present,
        dataset="folder",
        images=len(dataset.train),
        pretrained=situation.pretrained,
        epochs=situation.epochs,
    )
    fitted = CHANGES[situation.change](fitted)
    before: float | None = None
    if unchanged:
        found = train(situation, dataset, replace(present, epochs=situation.epochs or present.epochs), seed)["last"]
        # No better than guessing: the loss became infinite.
        before = 100 / situation.classes if found is None else found
    return {
        **train(situation, dataset, fitted, seed),
        "before": before,
        "steps": fitted.epochs * defaults.steps_per_epoch(len(dataset.train), fitted.batch_size),
    }


def table(rows: Iterable[Row]) -> str:
    """The results as a Markdown table, a line for each situation."""
    by_situation: dict[str, list[Row]] = {}
    for row in rows:
        by_situation.setdefault(json.dumps(row["situation"]), []).append(row)
    lines = [
        "| images | classes | per class | side | network | weights | epochs | steps | changed | linear | before "
        "| first epoch | end | end - linear | kept, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, found in by_situation.items():
        situation = Situation(**json.loads(key))
        gains = [{"gain": row["last"] - row["linear"]} for row in found if None not in (row["last"], row["linear"])]
        cells = [
            situation.kind,
            situation.classes,
            situation.per_class,
            situation.side,
            situation.model,
            "published" if situation.pretrained else "random",
            situation.epochs or "default",
            found[0]["steps"],
            situation.change,
            *(_summary(found, name) for name in ("linear", "before", "first", "last")),
            _summary(gains, "gain", "+.1f"),
            ", ".join(f"{100 * row['kept']:.0f}" for row in found if row["kept"] is not None),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _summary(rows: list[Row], name: str, form: str = ".1f") -> str:
    """The mean and, of several, the range; a run whose loss became infinite counts as none."""
    known = [row[name] for row in rows if row[name] is not None]
    if not known:
        return ""
    spread = f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return f"{statistics.mean(known):{form}}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/own_images.py", description=__doc__)
    parser.add_argument("--small", action="store_true", help="three situations on the shipped samples, in minutes")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: the shipped samples)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--results", type=Path, default=Path("runs/own_images.jsonl"), help="default: %(default)s")
    args = parser.parse_args()
    keep_freed_memory()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.is_file() else []
    known = {json.dumps([row["situation"], row["seed"]]): row for row in rows}
    tables = (SMALL,) if args.small else (FULL, CHANGED)
    for seed in args.seeds:
        for situation in (situation for part in tables for situation in part):
            key = json.dumps([asdict(situation), seed])
            if key in known:
                continue
            known[key] = {
                "situation": asdict(situation),
                "seed": seed,
                **measure(situation, args.data_dir or SAMPLES, seed, seed == 0 and situation in SMALL),
            }
            with args.results.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
    for part in tables:
        keys = (json.dumps([asdict(situation), seed]) for situation in part for seed in args.seeds)
        print(table(known[key] for key in keys), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
