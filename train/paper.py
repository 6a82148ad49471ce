"""What the paper reports, in percent: test accuracies per class (Tables 2, 3), epochs of logs (Figures 11 to 14)."""

from dataclasses import dataclass
from statistics import fmean

MODELS = (
    "vanilla_googlenet",
    "vanilla_resnet18",
    "vanilla_vgg16",
    "improved_googlenet",
    "improved_resnet18",
    "improved_vgg16",
)
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}

# A row a class, its columns in the order of MODELS.
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
    """An epoch that its logs show, counted from 1: accuracy on the training images and on the validation images."""

    number: int
    train_accuracy: float
    validation_accuracy: float


LOGS = {
    "mnist": {
        "vanilla_googlenet": (Epoch(24, 99.920, 99.320), Epoch(25, 99.948, 99.490)),
        "vanilla_resnet18": (Epoch(37, 100.0, 98.940), Epoch(38, 100.0, 98.940)),
        "vanilla_vgg16": (Epoch(49, 99.992, 99.200), Epoch(50, 99.998, 99.130)),
        "improved_googlenet": (Epoch(12, 99.510, 99.550), Epoch(13, 99.508, 99.600)),
        "improved_resnet18": (Epoch(49, 99.562, 99.540), Epoch(50, 99.514, 99.560)),
        "improved_vgg16": (Epoch(9, 99.474, 99.570), Epoch(10, 99.566, 99.600)),
    },
    "cifar10": {
        "vanilla_googlenet": (Epoch(13, 96.498, 79.820), Epoch(14, 96.791, 80.280)),
        "vanilla_resnet18": (Epoch(4, 64.442, 60.540), Epoch(5, 69.951, 62.120)),
        "vanilla_vgg16": (Epoch(34, 98.720, 76.180), Epoch(35, 99.007, 76.860)),
        "improved_googlenet": (Epoch(49, 89.689, 87.980), Epoch(50, 89.436, 87.840)),
        "improved_resnet18": (Epoch(49, 81.300, 81.860), Epoch(50, 81.493, 81.980)),
        "improved_vgg16": (Epoch(44, 88.576, 86.180), Epoch(45, 88.616, 86.240)),
    },
}


@dataclass(frozen=True)
class Result:
    """A network's test accuracy and that of each class, in percent."""

    accuracy: float
    per_class: dict[str, float]


# By model, as in `improved_vgg16`; some may be missing.
Results = dict[str, Result]


def per_class(dataset: str, model: str) -> dict[str, float]:
    """The paper's accuracy of each class, in percent; empty for what it does not report."""
    if dataset not in TABLES or model not in MODELS:
        return {}
    column = MODELS.index(model)
    return {name: row[column] for name, row in TABLES[dataset].items()}


def accuracy(dataset: str, model: str) -> float | None:
    """The mean of the paper's per-class accuracies, in percent, with two decimals; None for what it does not report."""
    values = per_class(dataset, model)
    return round(fmean(values.values()), 2) if values else None


def results(dataset: str) -> Results:
    """The paper's table of a dataset, by model in the order of MODELS."""
    per_class_of = {model: per_class(dataset, model) for model in MODELS}
    return {model: Result(round(fmean(values.values()), 2), values) for model, values in per_class_of.items()}
