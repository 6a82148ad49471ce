"""Every figure of every card held against the published weights: `python train/verify.py`, or `make verify`.

Figures of torch, ONNX fp32 and int8 are measured again, on the complete test split and on the 1,000 images of it that
ship with the project; with `--samples` on these alone, which needs no dataset and takes seconds a model. What only the
training saw (validation accuracy, epochs, time, learning rate) is held against its log, and all figures against each
other. It fails on any difference. What nothing is left of is taken on trust: seed, precision, hardware, versions,
commit, accuracy before storing, and the settings beside epochs, batch and learning rate. After a change of the export,
`--update` states what the ONNX files have come to.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from train import card, data, epoch_log, evaluate, export, measure, models, paper, recipes, table
from train.batches import batches
from train.errors import UserError, exit_status
from train.files import FileError, read_json, sha256, write_json, write_text

# Float sums differ in their last bits between processors, and with them an image at the border of two classes;
# quantised activations can round the other way in every layer. Shares of the images; one image is always allowed.
TOLERANCE = {"torch": 0.0002, "fp32": 0.0002, "int8": 0.001}
# How far publishing may move the test accuracy, in points: by storing the weights, and down or, by luck, up by
# quantising them. One image is always allowed.
STORED, INT8_LOSS, INT8_GAIN = 0.05, 0.2, 0.5
CARD_FILES = (
    "config.json", "metrics.json", "log.csv", "model.safetensors", "README.md", "confusion_matrix.png", "curves.png"
)  # fmt: skip


def outputs(folder: Path, model: nn.Module, test: data.Split) -> dict[str, np.ndarray]:
    """Logits float32 [n, classes] of a published model: of "torch", and of each precision of its ONNX files."""
    onnx = {precision: export.predict(folder / file, test.images) for precision, file in export.FILES.items()}
    return {"torch": evaluate.torch_outputs(model, test), **onnx}


def figures(folder: Path, dataset: data.Dataset) -> dict[str, Any]:
    """What `metrics.json` states of a published model's weights and ONNX files, measured on the test split."""
    model, _ = models.load_card(folder)
    labels, class_names = dataset.test.labels.numpy(), list(dataset.class_names)
    measured = {
        runtime: measure.accuracies(logits.argmax(1), labels, class_names)
        for runtime, logits in outputs(folder, model, dataset.test).items()
    }
    return {
        **measured["torch"],
        "onnx_test_accuracy": {precision: measured[precision]["test_accuracy"] for precision in export.FILES},
        "safetensors_sha256": sha256(folder / "model.safetensors"),
        "parameters": measure.parameters(model),
    }


def differences(folder: Path, data_dir: Path | None, samples: bool) -> Iterator[str]:
    """What a card states and what is not so, a line each.

    Args:
        samples: measure on the shipped images alone, which are of the datasets in `data.HUB_IDS`; see `ships_images`.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    if missing := _missing(folder):
        yield missing
        return
    for precision, file in export.FILES.items():
        if wrong := export.differing(folder, precision):
            yield f"{file} is not built, or has another {', '.join(wrong)}: python train/export.py {folder.name}"
            return
    metrics = read_json(folder / "metrics.json")
    config = read_json(folder / "config.json")
    yield from _of_another(metrics, config)
    if config["dataset"] in data.HUB_IDS:
        yield from broken_bounds(metrics)
    for stated, dataset in _measured_on(metrics, config, data_dir, samples):
        if config["label_names"] != list(dataset.class_names):
            yield f"label_names are {config['label_names']}, the dataset's are {list(dataset.class_names)}"
        found = figures(folder, dataset)
        yield from compare(stated, found)
    # The full figures contradict neither themselves nor the weights, even where the complete test split is not at hand.
    yield from contradictions(metrics, found)
    if "samples" in metrics:
        yield from contradictions(metrics["samples"], found)
    yield from of_training(metrics, folder / "log.csv")
    if (folder / "README.md").read_text() != card.render(folder):
        yield "README.md is not what metrics.json gives"


def _of_another(metrics: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Where `metrics.json` is of another network than `config.json`, or others would prepare its pictures otherwise."""
    if metrics["model"].partition(".")[0] != config["architecture"]:
        yield f"the network is {config['architecture']}, the card states {metrics['model']}"
    dataset = config["dataset"]
    if metrics["dataset"] not in (dataset, Path(dataset).name) or (metrics["dataset"] in data.HUB_IDS) != (
        dataset in data.HUB_IDS
    ):
        yield f"the dataset is {dataset}, the card states {metrics['dataset']}"
    for name, value in models.AS_PREPROCESSED.items():
        if (stated := config["pretrained_cfg"].get(name, value)) != value:
            yield f"{name} is {stated!r} in config.json, the figures are with {value!r}"


def _missing(folder: Path) -> str:
    missing = [name for name in CARD_FILES if not (folder / name).is_file()]
    return f"{', '.join(missing)} missing" if missing else ""


def _measured_on(
    metrics: dict[str, Any], config: dict[str, Any], data_dir: Path | None, samples: bool
) -> Iterator[tuple[dict[str, Any], data.Dataset]]:
    """The sets of figures in `metrics.json`, each with the dataset whose test split they are of."""
    if config["dataset"] in data.HUB_IDS:
        yield metrics["samples"], data.load(config["dataset"], export.SAMPLES)
    if not samples:
        yield metrics, data.load(config["dataset"], data_dir, config["image_size"][0])


def update(folder: Path, data_dir: Path | None) -> None:
    """State the accuracies that a card's ONNX files have now: with other code they may be others than when it was
    published. The figures of the weights stay as they are.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    if missing := _missing(folder):
        raise models.ModelError(missing)
    if export.outdated(folder):
        export.export(folder)
    metrics = read_json(folder / "metrics.json")
    config = read_json(folder / "config.json")
    for stated, dataset in _measured_on(metrics, config, data_dir, samples=False):
        for precision, file in export.FILES.items():
            found = export.predict(folder / file, dataset.test.images).argmax(1)
            accuracies = measure.accuracies(found, dataset.test.labels.numpy(), list(dataset.class_names))
            stated["onnx_test_accuracy"][precision] = accuracies["test_accuracy"]
    write_json(folder / "metrics.json", metrics)
    export.state_accuracies(folder)
    write_text(folder / "README.md", card.render(folder))


def allowed(images: int) -> dict[str, float]:
    """The tolerance of each runtime's accuracy on so many images, in points."""
    return {runtime: 100 * (max(1, share * images) + 0.5) / images for runtime, share in TOLERANCE.items()}


def compare(stated: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Differences beyond the tolerance between two sets of figures of the same images, as `figures` gives them."""
    if stated["test_images"] != found["test_images"]:
        yield f"test_images is {found['test_images']}, the card states {stated['test_images']}"
        return
    accuracies = {
        "torch": (found["test_accuracy"], stated["test_accuracy"]),
        **{
            precision: (value, stated["onnx_test_accuracy"][precision])
            for precision, value in found["onnx_test_accuracy"].items()
        },
    }
    tolerance = allowed(stated["test_images"])
    for runtime, (value, claim) in accuracies.items():
        if not abs(value - claim) <= tolerance[runtime]:  # put so that a NaN fails, here and below
            yield f"test accuracy with {runtime} is {value:.2f} %, the card states {claim:.2f} %"
    confusion, claimed = np.array(found["confusion_matrix"]), np.array(stated["confusion_matrix"])
    # An image that changes its predicted class changes two cells of its row.
    if (
        confusion.shape != claimed.shape
        or (confusion.sum(1) != claimed.sum(1)).any()
        or np.abs(confusion - claimed).sum() > 2 * max(1, TOLERANCE["torch"] * stated["test_images"])
    ):
        yield "the confusion matrix is another than the card's"


def contradictions(stated: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Where a set of figures contradicts itself, or what `figures` found of the same weights on whatever images."""
    for name in ("safetensors_sha256", "parameters"):
        if stated[name] != found[name]:
            yield f"{name} is {found[name]}, the card states {stated[name]}"
    names, confusion = list(found["per_class_accuracy"]), np.array(stated["confusion_matrix"])
    if confusion.shape != (len(names), len(names)) or confusion.sum() != stated["test_images"]:
        yield f"the confusion matrix is none of {len(names)} classes and {stated['test_images']} images"
        return
    if stated["test_accuracy"] != round(100 * float(confusion.trace()) / stated["test_images"], 4):
        yield "the card's accuracy does not follow from its own confusion matrix"
    if not abs(stated["onnx_test_accuracy"]["fp32"] - stated["test_accuracy"]) <= allowed(confusion.sum())["fp32"]:
        yield "the card's accuracy with ONNX fp32 is not that of the same network with torch"
    if list(stated["per_class_accuracy"]) != names:
        yield f"the card's classes are {list(stated['per_class_accuracy'])}, the dataset's are {names}"
        return
    per_class = 100 * confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    for name, value in zip(names, per_class, strict=True):
        claim = stated["per_class_accuracy"][name]
        if claim != round(float(value), 4):
            yield f"accuracy of {name} is {claim:.4f} % in the card, {value:.4f} % by its own confusion matrix"


def broken_bounds(metrics: dict[str, Any]) -> Iterator[str]:
    """What publishing has changed of the test accuracy beyond its bounds, a line each."""
    one_image = 100 / metrics["test_images"]
    accuracy, trained, onnx = (
        metrics[name] for name in ("test_accuracy", "trained_test_accuracy", "onnx_test_accuracy")
    )
    stored, gained = round(accuracy - trained, 4), round(onnx["int8"] - onnx["fp32"], 4)
    if not abs(stored) <= max(STORED, one_image):
        yield f"storing the weights changed the test accuracy by {stored:+.2f} points, more than {STORED}"
    if not -max(INT8_LOSS, one_image) <= gained <= max(INT8_GAIN, one_image):
        yield f"int8 changed the test accuracy by {gained:+.2f} points, not -{INT8_LOSS} to {INT8_GAIN}"


def of_training(metrics: dict[str, Any], log: Path) -> Iterator[str]:
    """Where a card's figures of its training are not those of its log, its recipe or the paper."""
    rows = epoch_log.read(log)
    seconds = sum(row["seconds"] for row in rows)
    expected = {
        "validation_accuracy": rows[-1]["validation_accuracy"],
        "train_accuracy": rows[-1]["train_accuracy"],
        "epochs": len(rows),
        "train_seconds": seconds,
        "images_per_second": epoch_log.images_per_second(rows),
    }
    for name, value in expected.items():
        if not abs(metrics[name] - value) <= 1e-6 * abs(value):
            yield f"{name} is {value:g} by log.csv, the card states {metrics[name]:g}"
    recipe = recipes.of_settings(metrics["settings"])
    plan = batches(metrics["train_images"], recipe.batch_size)
    for epoch, row in enumerate(rows, 1):
        rate = recipes.learning_rate(recipe, epoch * len(plan) - 1, len(plan))
        if not abs(row["learning_rate"] - rate) <= 1e-6 * rate:
            yield f"the learning rate of epoch {epoch} is {row['learning_rate']:g} by log.csv, {rate:g} by the recipe"
            break
    images = round(rows[-1]["images_per_second"] * rows[-1]["seconds"])
    if plan[-1].stop != images:
        yield f"an epoch is of {images} images by log.csv, the card states {metrics['train_images']}"
    if metrics["settings"]["epochs"] != metrics["epochs"]:
        yield f"the recipe has {metrics['settings']['epochs']} epochs, the card states {metrics['epochs']}"
    reported = paper.accuracy(metrics["dataset"], metrics["model"])
    if metrics["paper_test_accuracy"] != reported:
        yield f"the paper's accuracy is {reported}, the card states {metrics['paper_test_accuracy']}"


def ships_images(folder: Path) -> bool:
    """Whether images of a card's dataset ship with the project; what a damaged card lacks, `differences` tells."""
    try:
        return read_json(folder / "config.json")["dataset"] in data.HUB_IDS
    except (OSError, ValueError, LookupError, TypeError):
        return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python train/verify.py", description=__doc__)
    parser.add_argument("models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all)")
    parser.add_argument("--samples", action="store_true", help="measure on the images that ship with the project alone")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    parser.add_argument(
        "--update",
        action="store_true",
        help="instead of checking, build the ONNX files anew where they are out of date and state their accuracies",
    )
    args = parser.parse_args(argv)
    if args.update and args.samples:
        parser.error("--update measures on the complete test split, --samples does not: choose one")
    return exit_status("verify.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    folders = models.chosen(args.models)
    status = 0
    for folder in folders:
        if args.samples and not ships_images(folder):
            print(f"{folder.name}: not checked, as the project ships no images of its dataset", flush=True)
            continue
        try:
            if args.update:
                update(folder, args.data_dir)
                continue
            found = list(differences(folder, args.data_dir, args.samples))
        except FileError as error:
            found = [str(error)]
        except UserError as error:
            print(f"verify.py: {folder.name}: {error}", file=sys.stderr)
            status = 2
            continue
        except KeyError as error:
            found = [f"metrics.json or config.json has no {error}"]
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            found = [f"metrics.json, config.json or log.csv is damaged: {error}"]
        print(f"{folder.name}: {'; '.join(found) or 'as stated'}", flush=True)
        status = max(status, 1 if found else 0)
    if args.update and any(folder.resolve().parent == models.MODEL_CARDS.resolve() for folder in folders):
        table.write()
    return status


if __name__ == "__main__":
    sys.exit(main())
