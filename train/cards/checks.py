"""Every number of a card checked against the published weights, the training log and the other numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import nn

from train import records
from train.cards import calibration, evaluation, model_card, robustness
from train.cards.rendering import fixed
from train.data import loading
from train.data.batches import batches
from train.data.reference import DataOptions, recorded
from train.files import FileError, sha256
from train.onnx_export import build, metadata, runtime
from train.records import CalibrationFit, CardConfig, CardMetrics, Published
from train.training import models, recipes
from train.training.results import measure
from train.training.runs import epoch_log, run_data

# The share of the images that another processor may classify differently; one image is always allowed. Float sums
# differ in their last bits, which decides for an image on the border of two classes; quantised activations can be
# rounded the other way in every layer.
TOLERANCE = {"torch": 0.0002, "fp32": 0.0002, "int8": 0.001}

# How far publishing may move the test accuracy, in points: storing the weights either way, quantisation down or, by
# luck, up. One image is always allowed.
STORED, INT8_LOSS, INT8_GAIN = 0.05, 0.2, 0.5

# The paper's test accuracy for a dataset and a model, in percent; None where it reports none.
Reported = Callable[[str, str], float | None]
CARD_FILES = (
    "config.json", "metrics.json", "log.csv", "model.safetensors", "README.md", "confusion_matrix.png", "curves.png"
)  # fmt: skip


def outputs(
    folder: Path, model: nn.Module, test: loading.Split, batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """Return a published model's logits, float32 [n, classes], by "torch" and by each precision of its ONNX files."""
    onnx = {
        precision: runtime.predict(folder / file, test.images, batch_size)
        for precision, file in onnx_files(folder).items()
    }
    return {"torch": evaluation.torch_outputs(model, test, batch_size=batch_size), **onnx}


def onnx_files(folder: Path) -> dict[str, str]:
    """List the ONNX files whose accuracies a card states, by precision."""
    return {precision: file for precision, file in metadata.FILES.items() if file in metadata.files(folder)}


def measured(folder: Path, dataset: loading.Dataset, batch_size: int | None = None) -> Published:
    """Measure a published model's weights and ONNX files on the test split, `batch_size` images at a time."""
    model, config = models.load_card(folder)
    logits = outputs(folder, model, dataset.test, batch_size)
    results = {
        runtime: evaluation.accuracies(scores, dataset.test, list(dataset.class_names))
        for runtime, scores in logits.items()
    }
    fit = records.parse(CalibrationFit, config, folder / "config.json")
    return Published(
        **vars(results["torch"]),
        calibration=calibration.measure(logits, dataset.test.labels.numpy(), fit),
        onnx_test_accuracy={precision: results[precision].test_accuracy for precision in onnx_files(folder)},
        safetensors_sha256=sha256(folder / "model.safetensors"),
        parameters=measure.parameters(model),
    )


def differences(
    folder: Path, data_dir: Path | None, samples: bool, reported: Reported, batch_size: int | None = None
) -> Iterator[str]:
    """Yield a line for everything that a card states and that is not true.

    Args:
        folder: of the card.
        data_dir: as `data.load` takes it.
        samples: measure only on the images that ship with the project; see `ships_images`.
        reported: the paper's test accuracy for a dataset and a model.
        batch_size: images that are measured at a time; None for as many as fit in little memory.

    Raises:
        files.FileError: `metrics.json` or `config.json` is damaged.
        ValueError, TypeError, LookupError, ArithmeticError: some other file is damaged, see `damage`.
        models.ModelError, data.DataError: the model or its data is not available.
    """
    if wrong := missing_files(folder) or _outdated(folder):
        yield wrong
        return
    metrics = records.read(CardMetrics, folder / "metrics.json")
    config = records.read(CardConfig, folder / "config.json")
    if wrong := "; ".join(calibration.malformed(config)):
        yield wrong
        return
    yield from _wrong_identity(metrics, config)
    if recorded(config.dataset).paper:
        yield from broken_bounds(metrics)
    for stated, dataset in to_measure(folder, metrics, config, data_dir, samples):
        if config.label_names != list(dataset.class_names):
            yield f"label_names are {config.label_names}, the dataset's are {list(dataset.class_names)}"
            return
        run_data.require_same_data(folder.name, config.label_names, config.image_size[2], dataset)
        found = measured(folder, dataset, batch_size)
        yield from compare(stated, found)
        yield from calibration.compare(stated, found)
        if stated is metrics:
            yield from calibration.unfitted(config, models.load_card(folder)[0], dataset, batch_size)
    # The metrics of the complete test split are held against the weights even where only the shipped images were used.
    yield from contradictions(metrics, found)
    if metrics.samples:
        yield from contradictions(metrics.samples, found)
    yield from calibration.contradictions(folder, metrics, config)
    yield from robustness.differences(folder, metrics, config)
    yield from of_training(metrics, folder / "log.csv", reported)
    if (folder / "README.md").read_text() != model_card.render(folder):
        yield "README.md is out of date: python train/card.py"


def _wrong_identity(metrics: CardMetrics, config: CardConfig) -> Iterator[str]:
    """Yield where `metrics.json` and `config.json` differ in network or dataset, or in how others preprocess images."""
    if metrics.model.partition(".")[0] != config.architecture:
        yield f"the network is {config.architecture}, the card states {metrics.model}"
    dataset = config.dataset
    if metrics.dataset not in (dataset, Path(dataset).name) or (
        recorded(metrics.dataset).paper != recorded(dataset).paper
    ):
        yield f"the dataset is {dataset}, the card states {metrics.dataset}"
    for name, value in models.AS_PREPROCESSED.items():
        if (stated := config.pretrained_cfg.get(name, value)) != value:
            yield f"{name} is {stated!r} in config.json, the metrics are measured with {value!r}"


def missing_files(folder: Path) -> str:
    """Name the files that a card lacks, in words; empty if it is complete."""
    missing = [name for name in CARD_FILES if not (folder / name).is_file()]
    return f"{', '.join(missing)} missing" if missing else ""


def _outdated(folder: Path) -> str:
    """Say which of a card's ONNX files is not built, or out of date; empty if none is."""
    for file in metadata.files(folder):
        if not (folder / file).is_file():
            return f"{file} is not built: python train/export.py {folder.name}"
        if wrong := metadata.differing(folder, file):
            return f"{file} is out of date in {', '.join(wrong)}: python train/export.py {folder.name}"
    return ""


def to_measure(
    folder: Path, metrics: CardMetrics, config: CardConfig, data_dir: Path | None, samples: bool
) -> Iterator[tuple[Published, loading.Dataset]]:
    """Yield the metrics that a card states, each with the dataset whose test split they are measured on."""
    if recorded(config.dataset).paper:
        if metrics.samples is None:
            raise FileError(f"{folder / 'metrics.json'} is damaged: samples is None")
        yield metrics.samples, loading.load(config.dataset, build.SAMPLES)
    if not samples:
        yield metrics, loading.load(config.dataset, data_dir, config.image_size[0], DataOptions.of(config.data_options))


def allowed(images: int) -> dict[str, float]:
    """Return the tolerance of each runtime's accuracy on so many images, in points."""
    return {runtime: 100 * (max(1, share * images) + 0.5) / images for runtime, share in TOLERANCE.items()}


def compare(stated: Published, found: Published) -> Iterator[str]:
    """Yield where a card's metrics differ by more than the tolerance from those measured on the same images."""
    if stated.test_images != found.test_images:
        yield f"test_images is {found.test_images}, the card states {stated.test_images}"
        return
    if found.onnx_test_accuracy.keys() != stated.onnx_test_accuracy.keys():
        files, precisions = (", ".join(metrics.onnx_test_accuracy) for metrics in (found, stated))
        yield f"the ONNX files are {files}, the card states accuracies of {precisions}"
        return
    accuracies = {"torch": (found.test_accuracy, stated.test_accuracy)}
    if found.top5_accuracy is not None and stated.top5_accuracy is not None:
        accuracies["torch, top 5"] = (found.top5_accuracy, stated.top5_accuracy)
    for precision, value in found.onnx_test_accuracy.items():
        accuracies[precision] = (value, stated.onnx_test_accuracy[precision])
    tolerance = allowed(stated.test_images)
    for name, (value, claim) in accuracies.items():
        if not abs(value - claim) <= tolerance[name.partition(",")[0]]:  # written so that a NaN fails, here and below
            yield f"test accuracy with {name} is {value:.2f} %, the card states {claim:.2f} %"
    confusion, claimed = np.array(found.confusion_matrix), np.array(stated.confusion_matrix)
    # An image that changes its predicted class changes two cells of its row.
    if (
        confusion.shape != claimed.shape
        or (confusion.sum(1) != claimed.sum(1)).any()
        or np.abs(confusion - claimed).sum() > 2 * max(1, TOLERANCE["torch"] * stated.test_images)
    ):
        yield "the confusion matrix differs from the card's"


def contradictions(stated: Published, found: Published) -> Iterator[str]:
    """Yield where metrics contradict themselves, or what was measured with the same weights on any images."""
    for name, value, claim in (
        ("safetensors_sha256", found.safetensors_sha256, stated.safetensors_sha256),
        ("parameters", found.parameters, stated.parameters),
    ):
        if claim != value:
            yield f"{name} is {value}, the card states {claim}"
    names, confusion = list(found.per_class_accuracy), np.array(stated.confusion_matrix)
    if confusion.shape != (len(names), len(names)) or confusion.sum() != stated.test_images:
        yield f"the card's confusion matrix is not of {len(names)} classes and {stated.test_images} images"
        return
    if stated.test_accuracy != round(100 * float(confusion.trace()) / stated.test_images, 4):
        yield "the card's accuracy does not follow from its own confusion matrix"
    if not abs(stated.onnx_test_accuracy["fp32"] - stated.test_accuracy) <= allowed(confusion.sum())["fp32"]:
        yield "the card's accuracy with ONNX fp32 is not that of the same network with torch"
    if list(stated.per_class_accuracy) != names:
        yield f"the card's classes are {list(stated.per_class_accuracy)}, the dataset's are {names}"
        return
    yield from _not_of_confusion(stated, confusion)


def _not_of_confusion(stated: Published, confusion: np.ndarray) -> Iterator[str]:
    """Yield the metrics that do not follow from a card's own confusion matrix."""
    for name, accuracy in zip(stated.per_class_accuracy, measure.per_class_accuracy(confusion), strict=True):
        claimed = stated.per_class_accuracy[name]
        if claimed != accuracy:
            its, own = fixed(claimed, 4), fixed(accuracy, 4)
            yield f"accuracy of {name} is {its} % in the card, {own} % by its own confusion matrix"
    for key, metric in (("macro_f1", measure.macro_f1), ("balanced_accuracy", measure.balanced_accuracy)):
        claimed = getattr(stated, key)
        # None in the cards of versions that did not write it.
        if claimed is not None and claimed != metric(confusion):
            yield f"{key} is {claimed:.4f} % in the card, {metric(confusion):.4f} % by its own confusion matrix"


def broken_bounds(metrics: CardMetrics) -> Iterator[str]:
    """Yield where publishing changed the test accuracy by more than it may."""
    one_image = 100 / metrics.test_images
    onnx = metrics.onnx_test_accuracy
    stored = round(metrics.test_accuracy - metrics.trained_test_accuracy, 4)
    gained = round(onnx.get("int8", onnx["fp32"]) - onnx["fp32"], 4)
    if not abs(stored) <= max(STORED, one_image):
        yield f"storing the weights changed the test accuracy by {stored:+.2f} points, more than {STORED}"
    if not -max(INT8_LOSS, one_image) <= gained <= max(INT8_GAIN, one_image):
        yield f"int8 changed the test accuracy by {gained:+.2f} points, not -{INT8_LOSS} to {INT8_GAIN}"


def of_training(metrics: CardMetrics, log: Path, reported: Reported) -> Iterator[str]:
    """Yield where a card's metrics of the training differ from its log, its recipe or the paper."""
    rows = epoch_log.read(log)
    for name, value, claim in (
        ("validation_accuracy", rows[-1]["validation_accuracy"], metrics.validation_accuracy),
        ("train_accuracy", rows[-1]["train_accuracy"], metrics.train_accuracy),
        ("epochs", len(rows), metrics.epochs),
        ("train_seconds", sum(row["seconds"] for row in rows), metrics.train_seconds),
        ("images_per_second", epoch_log.images_per_second(rows), metrics.images_per_second),
    ):
        if not abs(claim - value) <= 1e-6 * abs(value):
            yield f"{name} is {value:g} by log.csv, the card states {claim:g}"
    recipe = recipes.of_settings(metrics.settings)
    plan = batches(metrics.train_images, recipe.batch_size)
    for epoch, row in enumerate(rows, 1):
        rate = recipes.learning_rate(recipe, epoch * len(plan) - 1, len(plan))
        if not abs(row["learning_rate"] - rate) <= 1e-6 * rate:
            yield f"the learning rate of epoch {epoch} is {row['learning_rate']:g} by log.csv, {rate:g} by the recipe"
            break
    images = round(rows[-1]["images_per_second"] * rows[-1]["seconds"])
    if plan[-1].stop != images:
        yield f"an epoch has {images} images by log.csv, the card states {metrics.train_images}"
    if recipe.epochs != metrics.epochs:
        yield f"the recipe has {recipe.epochs} epochs, the card states {metrics.epochs}"
    theirs = reported(metrics.dataset, metrics.model)
    if metrics.paper_test_accuracy != theirs:
        yield f"the paper's accuracy is {theirs}, the card states {metrics.paper_test_accuracy}"


def damage(error: Exception) -> str:
    """Describe in one line an error that `differences` or `updating.update` met in a damaged file."""
    if isinstance(error, KeyError):
        return f"metrics.json, config.json or log.csv has no {error}"
    return f"metrics.json, config.json or log.csv is damaged: {error}"


def ships_images(folder: Path) -> bool:
    """Tell whether images of a card's dataset ship with the project; True for a damaged card, left to `differences`."""
    try:
        return recorded(records.read(CardConfig, folder / "config.json").dataset).paper is not None
    except (OSError, FileError):
        return True
