"""Every number of a card checked against the published weights, the training log and the other numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from train.cards import card, evaluation
from train.data import loading
from train.data.batches import batches
from train.files import read_json, sha256, write_json, write_text
from train.onnx_export import build, metadata, runtime
from train.training import epoch_log, measure, models, recipes
from zoo.catalog import DATASETS

# Float sums differ in their last bits between processors, and with them an image at the border of two classes;
# quantised activations can round the other way in every layer. Shares of the images; one image is always allowed.
TOLERANCE = {"torch": 0.0002, "fp32": 0.0002, "int8": 0.001}


# How far publishing may move the test accuracy, in points: by storing the weights, and down or, by luck, up by
# quantising them. One image is always allowed.
STORED, INT8_LOSS, INT8_GAIN = 0.05, 0.2, 0.5


# The paper's test accuracy of a dataset and a model, in percent; None for what it does not report.
Reported = Callable[[str, str], float | None]
CARD_FILES = (
    "config.json", "metrics.json", "log.csv", "model.safetensors", "README.md", "confusion_matrix.png", "curves.png"
)  # fmt: skip


def outputs(folder: Path, model: nn.Module, test: loading.Split) -> dict[str, np.ndarray]:
    """Logits float32 [n, classes] of a published model: of "torch", and of each precision of its ONNX files."""
    onnx = {precision: runtime.predict(folder / file, test.images) for precision, file in metadata.FILES.items()}
    return {"torch": evaluation.torch_outputs(model, test), **onnx}


def figures(folder: Path, dataset: loading.Dataset) -> dict[str, Any]:
    """What `metrics.json` states of a published model's weights and ONNX files, measured on the test split."""
    model, _ = models.load_card(folder)
    labels, class_names = dataset.test.labels.numpy(), list(dataset.class_names)
    measured = {
        runtime: measure.accuracies(logits.argmax(1), labels, class_names)
        for runtime, logits in outputs(folder, model, dataset.test).items()
    }
    return {
        **measured["torch"],
        "onnx_test_accuracy": {precision: measured[precision]["test_accuracy"] for precision in metadata.FILES},
        "safetensors_sha256": sha256(folder / "model.safetensors"),
        "parameters": measure.parameters(model),
    }


def differences(folder: Path, data_dir: Path | None, samples: bool, reported: Reported) -> Iterator[str]:
    """What a card states and what is not so, a line each.

    Args:
        samples: measure on the shipped images alone, which are of the datasets in `data.HUB_IDS`; see `ships_images`.
        reported: the paper's test accuracy of a dataset and a model.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    if missing := _missing(folder):
        yield missing
        return
    for file in metadata.ALL_FILES:
        if wrong := metadata.differing(folder, file):
            yield f"{file} is not built, or has another {', '.join(wrong)}: python train/export.py {folder.name}"
            return
    metrics = read_json(folder / "metrics.json")
    config = read_json(folder / "config.json")
    yield from _of_another(metrics, config)
    if config["dataset"] in DATASETS:
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
    yield from of_training(metrics, folder / "log.csv", reported)
    if (folder / "README.md").read_text() != card.render(folder):
        yield "README.md is not what metrics.json gives"


def _of_another(metrics: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Where `metrics.json` is of another network than `config.json`, or others would prepare its pictures otherwise."""
    if metrics["model"].partition(".")[0] != config["architecture"]:
        yield f"the network is {config['architecture']}, the card states {metrics['model']}"
    dataset = config["dataset"]
    if metrics["dataset"] not in (dataset, Path(dataset).name) or (metrics["dataset"] in DATASETS) != (
        dataset in DATASETS
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
) -> Iterator[tuple[dict[str, Any], loading.Dataset]]:
    """The sets of figures in `metrics.json`, each with the dataset whose test split they are of."""
    if config["dataset"] in DATASETS:
        yield metrics["samples"], loading.load(config["dataset"], build.SAMPLES)
    if not samples:
        yield metrics, loading.load(config["dataset"], data_dir, config["image_size"][0])


def update(folder: Path, data_dir: Path | None) -> None:
    """State the accuracies that a card's ONNX files have now: with other code they may be others than when it was
    published. The figures of the weights stay as they are.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    if missing := _missing(folder):
        raise models.ModelError(missing)
    if metadata.outdated(folder):
        build.export(folder)
    metrics = read_json(folder / "metrics.json")
    config = read_json(folder / "config.json")
    for stated, dataset in _measured_on(metrics, config, data_dir, samples=False):
        for precision, file in metadata.FILES.items():
            found = runtime.predict(folder / file, dataset.test.images).argmax(1)
            accuracies = measure.accuracies(found, dataset.test.labels.numpy(), list(dataset.class_names))
            stated["onnx_test_accuracy"][precision] = accuracies["test_accuracy"]
    write_json(folder / "metrics.json", metrics)
    build.state_accuracies(folder)
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
    for name, (value, claim) in accuracies.items():
        if not abs(value - claim) <= tolerance[name]:  # put so that a NaN fails, here and below
            yield f"test accuracy with {name} is {value:.2f} %, the card states {claim:.2f} %"
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


def of_training(metrics: dict[str, Any], log: Path, reported: Reported) -> Iterator[str]:
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
    theirs = reported(metrics["dataset"], metrics["model"])
    if metrics["paper_test_accuracy"] != theirs:
        yield f"the paper's accuracy is {theirs}, the card states {metrics['paper_test_accuracy']}"


def ships_images(folder: Path) -> bool:
    """Whether images of a card's dataset ship with the project; what a damaged card lacks, `differences` tells."""
    try:
        return read_json(folder / "config.json")["dataset"] in DATASETS
    except (OSError, ValueError, LookupError, TypeError):
        return True
