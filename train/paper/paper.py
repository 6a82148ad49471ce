"""The results that the paper reports: Tables 2 and 3, and the epochs shown by its logs (Figures 11 to 14)."""

import math
from dataclasses import dataclass
from statistics import fmean

from zoo.catalog import DATASETS

MODELS = (
    "vanilla_googlenet",
    "vanilla_resnet18",
    "vanilla_vgg16",
    "improved_googlenet",
    "improved_resnet18",
    "improved_vgg16",
)

# Test accuracy in percent: a row for each class, a column for each of MODELS.
TABLES = {
    "mnist": {
        "0": (99.79, 99.38, 99.59, 99.79, 99.89, 100.0),
        "1": (99.82, 99.55, 99.64, 99.91, 100.0, 100.0),
        "2": (99.90, 99.51, 99.41, 99.61, 99.61, 99.70),
        "3": (99.80, 99.60, 99.50, 99.90, 99.70, 99.70),
        "4": (99.08, 98.98, 99.08, 99.38, 99.49, 99.89),
        "5": (99.32, 98.54, 99.10, 99.43, 99.55, 99.10),
        "6": (99.37, 98.95, 99.06, 99.37, 99.06, 99.58),
        "7": (99.31, 98.54, 98.92, 99.61, 99.70, 99.41),
        "8": (99.17, 98.54, 99.17, 99.79, 99.58, 99.58),
        "9": (99.40, 97.81, 98.31, 99.60, 99.60, 99.40),
    },
    "cifar10": {
        "airplane": (86.2, 70.19, 82.5, 90.8, 85.9, 86.8),
        "automobile": (93.8, 76.0, 84.3, 95.5, 93.4, 93.4),
        "bird": (76.2, 50.0, 69.19, 81.2, 72.8, 66.3),
        "cat": (69.19, 48.19, 62.4, 69.1, 58.69, 50.7),
        "deer": (81.6, 56.10, 75.1, 82.1, 79.10, 78.8),
        "dog": (77.2, 55.60, 63.6, 77.5, 75.1, 61.6),
        "frog": (88.2, 76.5, 81.5, 88.6, 86.7, 87.6),
        "horse": (82.69, 68.7, 77.5, 91.0, 86.8, 84.89),
        "ship": (89.4, 81.2, 84.5, 91.9, 90.10, 89.3),
        "truck": (87.0, 72.8, 79.2, 90.8, 90.10, 90.8),
    },
}


@dataclass(frozen=True)
class Epoch:
    """An epoch that the paper's logs show.

    Attributes:
        number: counted from 1.
        train_loss, validation_loss: as printed; see `mean_losses`.
        train_accuracy, validation_accuracy: in percent.
        seconds: the time it took, on hardware that the paper does not name; None where the log does not show it.
    """

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float | None


LOGS = {
    "mnist": {
        "vanilla_googlenet": (
            Epoch(24, 0.0000, 99.920, 0.0002, 99.320, 30.61),
            Epoch(25, 0.0000, 99.948, 0.0002, 99.490, 30.86),
        ),
        "vanilla_resnet18": (
            Epoch(37, 0.0000, 100.0, 0.0003, 98.940, 36.17),
            Epoch(38, 0.0000, 100.0, 0.0003, 98.940, 35.93),
        ),
        "vanilla_vgg16": (
            Epoch(49, 0.0000, 99.992, 0.0005, 99.200, 64.43),
            Epoch(50, 0.0000, 99.998, 0.0005, 99.130, 64.61),
        ),
        "improved_googlenet": (
            Epoch(12, 0.0040, 99.510, 0.0040, 99.550, 39.54),
            Epoch(13, 0.0040, 99.508, 0.0040, 99.600, 39.65),
        ),
        "improved_resnet18": (
            Epoch(49, 0.0041, 99.562, 0.0041, 99.540, 46.85),
            Epoch(50, 0.0041, 99.514, 0.0041, 99.560, 46.78),
        ),
        "improved_vgg16": (
            Epoch(9, 0.0041, 99.474, 0.0043, 99.570, 101.13),
            Epoch(10, 0.0041, 99.566, 0.0043, 99.600, 100.97),
        ),
    },
    "cifar10": {
        "vanilla_googlenet": (
            Epoch(13, 0.0008, 96.498, 0.0060, 79.820, 32.42),
            Epoch(14, 0.0007, 96.791, 0.0063, 80.280, None),
        ),
        "vanilla_resnet18": (
            Epoch(4, 0.0078, 64.442, 0.0092, 60.540, 37.65),
            Epoch(5, 0.0067, 69.951, 0.0090, 62.120, 37.58),
        ),
        "vanilla_vgg16": (
            Epoch(34, 0.0003, 98.720, 0.0117, 76.180, 223.26),
            Epoch(35, 0.0002, 99.007, 0.0119, 76.860, 223.33),
        ),
        "improved_googlenet": (
            Epoch(49, 0.0058, 89.689, 0.0063, 87.980, 134.87),
            Epoch(50, 0.0058, 89.436, 0.0063, 87.840, 134.76),
        ),
        "improved_resnet18": (
            Epoch(49, 0.0073, 81.300, 0.0073, 81.860, 73.49),
            Epoch(50, 0.0073, 81.493, 0.0073, 81.980, 73.39),
        ),
        "improved_vgg16": (
            Epoch(44, 0.0061, 88.576, 0.0069, 86.180, 118.03),
            Epoch(45, 0.0061, 88.616, 0.0069, 86.240, 117.72),
        ),
    },
}
BATCH_SIZE = 128


def train_images(dataset: str) -> int:
    """Return how many images the paper trains on: the training split without those held out for validation."""
    return DATASETS[dataset].train_images - DATASETS[dataset].validation_images


def mean_losses(dataset: str, epoch: Epoch) -> tuple[float, float]:
    """Return the mean loss per image in training and on validation.

    The paper's logs print the sum of the batches' means, divided by the number of images.
    """
    held_out = DATASETS[dataset].validation_images
    printed = ((epoch.train_loss, train_images(dataset)), (epoch.validation_loss, held_out))
    train, validation = (loss * n / math.ceil(n / BATCH_SIZE) for loss, n in printed)
    return train, validation


@dataclass(frozen=True)
class Result:
    """A network's test accuracy and its accuracy on each class, in percent."""

    accuracy: float
    per_class: dict[str, float]


# By model, such as `improved_vgg16`; some may be missing.
Results = dict[str, Result]


def per_class(dataset: str, model: str) -> dict[str, float]:
    """Return the paper's accuracy on each class, in percent; empty where it reports none."""
    if dataset not in TABLES or model not in MODELS:
        return {}
    column = MODELS.index(model)
    return {name: row[column] for name, row in TABLES[dataset].items()}


def accuracy(dataset: str, model: str) -> float | None:
    """Return the mean of the paper's per-class accuracies, in percent to two decimals; None where it reports none."""
    values = per_class(dataset, model)
    return round(fmean(values.values()), 2) if values else None


def of_all_images(dataset: str, model: str) -> float:
    """Return the paper's accuracy on the whole test split, in percent, which follows from that of each class."""
    values, images_of = per_class(dataset, model).values(), DATASETS[dataset].test_images
    right = (round(value / 100 * images) for value, images in zip(values, images_of, strict=True))
    return 100 * sum(right) / sum(images_of)


def results(dataset: str) -> Results:
    """Return the paper's table of a dataset, by model in the order of MODELS."""
    per_class_of = {model: per_class(dataset, model) for model in MODELS}
    return {model: Result(round(fmean(values.values()), 2), values) for model, values in per_class_of.items()}
