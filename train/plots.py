"""The pictures of a run, as PNG."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.files import replacing


def curves(rows: list[dict[str, float]], title: str, path: Path) -> None:
    """Loss and accuracy over the epochs, training and validation (as the paper's Figures 5 to 8)."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw(axes, rows, what)
    _save(figure, path)


def grid_of_curves(logs: dict[str, list[dict[str, float]]], what: str, title: str, path: Path) -> None:
    """A panel for each model, vanilla above improved: `what` ("loss" or "accuracy") over the epochs."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(title)
    for axes, (name, rows) in zip(figure.subplots(2, 3).flat, logs.items(), strict=True):
        axes.set_title(name, fontsize=10)
        if rows:
            _draw(axes, rows, what)
        else:
            axes.text(0.5, 0.5, "none yet", ha="center", va="center", transform=axes.transAxes, color="grey")
            axes.set_xticks([])
            axes.set_yticks([])
    _save(figure, path)


def _draw(axes: Axes, rows: list[dict[str, float]], what: str) -> None:
    """A log's "loss" or "accuracy" over the epochs."""
    for split in ("train", "validation"):
        epochs = [row["epoch"] for row in rows]
        axes.plot(epochs, [row[f"{split}_{what}"] for row in rows], marker="o", markersize=3, label=split)
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Accuracy, %" if what == "accuracy" else "Loss")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if what == "accuracy" else "upper right")


def class_bars(series: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """Accuracy of each class in percent, a bar for each series, from just below the lowest."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(series.values())))
    width = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        axes.bar(np.arange(len(names)) + i * width, [values[name] for name in names], width, label=label)
    lowest = min(min(values.values()) for values in series.values())
    axes.set_ylim(max(0, lowest - 0.25 * (100 - lowest)), 100)
    axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names)
    axes.set_ylabel("Accuracy, %")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=len(series))
    _save(figure, path)


def confusion_matrix(confusion: np.ndarray, class_names: list[str], title: str, path: Path) -> None:
    """Counts of true class (rows) against predicted class (columns); the colour shows the errors alone."""
    n = len(class_names)
    figure = Figure(figsize=(2 + 0.5 * n, 1.6 + 0.5 * n), layout="constrained")
    axes = figure.subplots()
    errors = np.where(np.eye(n, dtype=bool), 0, confusion)
    axes.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()) * 1.4)
    for i, j in np.ndindex(n, n):
        if confusion[i, j]:
            axes.text(
                j, i, str(confusion[i, j]), ha="center", va="center", fontsize=8, weight="bold" if i == j else None
            )
    axes.set_xticks(range(n), class_names, rotation=45, ha="right")
    axes.set_yticks(range(n), class_names)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    axes.set_title(title)
    _save(figure, path)


def mistakes(
    images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, class_names: list[str], title: str, path: Path
) -> None:
    """Images uint8 [n, H, W, C] that were taken for another class: above each its true class and the predicted one."""
    columns, rows = 8, max(1, -(-len(images) // 8))
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, label, prediction in zip(figure.axes, images, labels, predictions, strict=False):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{class_names[label]} \N{RIGHTWARDS ARROW} {class_names[prediction]}", fontsize=8)
    _save(figure, path)


def components(points: np.ndarray, labels: np.ndarray, class_names: list[str], title: str, path: Path) -> None:
    """Points [n, 2], the first two principal components of the features, coloured by class."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(class_names) <= 10 else "tab20"]
    for label, name in enumerate(class_names):
        mine = points[labels == label]
        axes.scatter(mine[:, 0], mine[:, 1], s=4, alpha=0.5, color=colours(label % colours.N), label=name)
    axes.set_xlabel("First component")
    axes.set_ylabel("Second component")
    axes.set_title(title)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110)
