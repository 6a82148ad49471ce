"""Metrics of a model on a split, and what they were measured on."""

import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# The classes from which on the top-5 accuracy says something: with 5 it is always 100 %.
CLASSES_FOR_TOP5 = 6


def accuracies(logits: np.ndarray, labels: np.ndarray, class_names: list[str]) -> dict[str, Any]:
    """Compute the fields of `records.SplitMetrics`: metrics in percent, and the confusion matrix.

    Args:
        logits: float [n, classes].
        labels: int64 [n].
        class_names: in the order of the labels.
    """
    n = len(class_names)
    confusion = np.bincount(labels * n + logits.argmax(1), minlength=n * n).reshape(n, n)
    top5 = None
    if n >= CLASSES_FOR_TOP5:
        above = (logits > np.take_along_axis(logits, labels[:, None], 1)).sum(1)
        top5 = round(100 * float((above < 5).mean()), 4)
    return {
        "test_accuracy": round(100 * float(confusion.trace()) / len(labels), 4),
        "test_images": len(labels),
        "macro_f1": macro_f1(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "top5_accuracy": top5,
        "per_class_accuracy": dict(zip(class_names, per_class_accuracy(confusion), strict=True)),
        "confusion_matrix": confusion.tolist(),
    }


def per_class_accuracy(confusion: np.ndarray) -> list[float | None]:
    """Compute the share of each class's images that are classified right, in percent; None for a class without images.

    Args:
        confusion: images, rows by true class, columns by predicted class; also below.
    """
    return [
        round(float(100 * right / images), 4) if images else None
        for right, images in zip(confusion.diagonal(), confusion.sum(1), strict=True)
    ]


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Compute the mean accuracy of the classes that have images, in percent: each counts alike, however many it has."""
    images = confusion.sum(1)
    tested = images > 0
    return round(100 * float((confusion.diagonal()[tested] / images[tested]).mean()), 4)


def macro_f1(confusion: np.ndarray) -> float:
    """Compute the mean F1 score of the classes that have images, in percent.

    A class's F1 score is the harmonic mean of its precision and its recall: twice the images that are classified right,
    divided by the images of the class plus the images that are taken for it.
    """
    images = confusion.sum(1)
    tested = images > 0
    return round(100 * float((2 * confusion.diagonal() / (images + confusion.sum(0)).clip(min=1))[tested].mean()), 4)


def uneven(confusion: np.ndarray) -> bool:
    """Tell whether some classes have more test images than others."""
    return len(set(confusion.sum(1).tolist())) > 1


def confident_mistakes(logits: np.ndarray, labels: np.ndarray, most: int) -> list[dict[str, Any]]:
    """List the wrong predictions with the highest probabilities, highest first: row, classes, probability."""
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    predictions = logits.argmax(1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predictions[wrong]], kind="stable")][:most]
    return [
        {
            "row": int(row),
            "label": int(labels[row]),
            "prediction": int(predictions[row]),
            "probability": round(float(probabilities[row, predictions[row]]), 6),
        }
        for row in worst
    ]


def principal_components(features: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Project features [n, d] on their first two principal components: [n, 2], and each one's share of the variance."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    first = directions[:, :-3:-1]
    first = first * np.sign(first[np.abs(first).argmax(0), [0, 1]])  # an eigenvector's sign is arbitrary
    return centred @ first, (variances[:-3:-1] / max(variances.sum(), 1e-12)).tolist()


def parameters(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Count the multiplications with an addition that a model in evaluation mode needs for one image.

    Those of convolutions and matrix products count, as in timm's tables.

    Args:
        model: on any device; on torch's "meta" device nothing is computed.
        input_size: channels, height and width of the image.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_size, device=device))
    return int(counter.get_total_flops()) // 2


def environment(device: torch.device) -> dict[str, Any]:
    """Tell what a run used: device, CPU threads, peak memory in bytes, library versions."""
    cuda = device.type == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "device_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "host_memory_bytes": peak,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "timm", "accelerate", "datasets")},
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_commit() -> str | None:
    """Return the commit of the running code, with a plus where files have changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=40"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
