"""Plots of a run: matplotlib figures, which are written as PNG where a path is given."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from train.files import atomic_write
from train.records import FilesCalibration
from train.training.results.fonts import drawable

# The colour of each split's curve.
COLOURS = {"train": "tab:blue", "validation": "tab:orange"}

EPOCHS_OF_A_CURVE = 3


def curves(
    rows: list[dict[str, float]], title: str, path: Path | None = None, steps: list[dict[str, float]] | None = None
) -> Figure:
    """Plot loss and accuracy over the epochs, training and validation (as in the paper's Figures 5 to 8).

    Args:
        rows: of the epochs.
        title: of the whole plot.
        path: of the file, if it is to be written.
        steps: the training loss within the epochs, by "epoch"; drawn where one or two epochs make no curve.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw(axes, rows, metric)
        if metric == "loss" and steps and len(rows) < EPOCHS_OF_A_CURVE:
            axes.plot(
                [row["epoch"] for row in steps], [row["train_loss"] for row in steps], color=COLOURS["train"], alpha=0.5
            )
        axes.legend(loc="lower right" if metric == "accuracy" else "upper right")
    return save(figure, path)


def grid_of_curves(
    logs: dict[str, list[dict[str, float]]],
    marks: dict[str, list[dict[str, float]]],
    metric: str,
    title: str,
    path: Path | None = None,
) -> Figure:
    """Plot "loss" or "accuracy" over the epochs, a panel for each log, all with the same scale.

    Args:
        logs: rows by panel title.
        marks: rows of the paper's own logs, drawn as marks in the panels of the same title.
        metric: "loss" or "accuracy".
        title: of the whole plot.
        path: of the file, if it is to be written.
    """
    columns = min(3, len(logs))
    rows = -(-len(logs) // columns)
    figure = Figure(figsize=(max(5, 3.67 * columns), 0.9 + 2.6 * rows), layout="constrained")
    figure.suptitle(title)
    for axes, (name, log) in zip(figure.subplots(rows, columns, squeeze=False).flat, logs.items(), strict=False):
        axes.set_title(name, fontsize=10)
        _draw(axes, log, metric)
        for split, colour in COLOURS.items() if name in marks else ():
            epochs, values = zip(*((row["epoch"], row[f"{split}_{metric}"]) for row in marks[name]), strict=True)
            axes.plot(epochs, values, "D", color=colour, markerfacecolor="white", label=f"{split}, the paper's log")
        axes.set_ylim(*_range(logs, metric))
    for axes in figure.axes[len(logs) :]:
        axes.remove()
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 2 * columns))
    return save(figure, path)


def _range(logs: dict[str, list[dict[str, float]]], metric: str) -> tuple[float, float]:
    """Return the limits of an axis that leaves out the worst twentieth of all values, those of the first epochs."""
    values = [row[f"{split}_{metric}"] for log in logs.values() for row in log for split in COLOURS]
    if metric == "accuracy":
        worst = min(float(np.percentile(values, 5)), 99.9)
        return worst - 0.05 * (100 - worst), 100 + 0.02 * (100 - worst)
    return 0, 1.05 * float(np.percentile(values, 95))


def _draw(axes: Axes, rows: list[dict[str, float]], metric: str) -> None:
    """Draw a log's "loss" or "accuracy" over the epochs."""
    for split, colour in COLOURS.items():
        epochs = [row["epoch"] for row in rows]
        axes.plot(
            epochs, [row[f"{split}_{metric}"] for row in rows], color=colour, marker="o", markersize=3, label=split
        )
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Accuracy, %" if metric == "accuracy" else "Loss")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)


def class_accuracies(series: dict[str, dict[str, float]], title: str, path: Path | None = None) -> Figure:
    """Plot the accuracy of each class in percent, with a mark for each series."""
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    shown = dict(zip(names, drawable(names), strict=True))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for (label, values), mark in zip(series.items(), "oDsv", strict=False):
        axes.plot([shown[name] for name in values], list(values.values()), mark, markersize=7, label=label)
    axes.set_ylabel("Accuracy, %")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=len(series))
    return save(figure, path)


def waterfall(
    start: float, steps: dict[str, float], ends: tuple[str, str], title: str, path: Path | None = None
) -> Figure:
    """Plot how an accuracy in percent grows and shrinks, step by step.

    Args:
        start: the accuracy before the first step.
        steps: points that each step adds, by its name.
        ends: the names of what there is before the first step and after the last.
        title: of the plot.
        path: of the file, if it is to be written.
    """
    reached = [start, *(start + float(total) for total in np.cumsum(list(steps.values())))]
    names = [ends[0], *steps, ends[1]]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    lowest, highest = min(reached), max(reached)
    margin = max(1.0, 0.15 * (highest - lowest))
    left = max(0.0, lowest - margin)
    for y, value in ((0, reached[0]), (len(names) - 1, reached[-1])):
        axes.barh(y, value - left, left=left, color="tab:gray")
        axes.text(value, y, f" {value:.2f} %", va="center", fontsize=9)
    for y, (points, before) in enumerate(zip(steps.values(), reached, strict=False), start=1):
        axes.barh(y, points, left=before, color="tab:green" if points >= 0 else "tab:red")
        axes.text(max(before, before + points), y, f" {points:+.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left, min(100 + margin, highest + margin))
    axes.set_xlabel("Test accuracy, %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(title)
    return save(figure, path)


def confusion_matrix(confusion: np.ndarray, class_names: list[str], title: str, path: Path | None = None) -> Figure:
    """Plot the counts of true class (rows) and predicted class (columns); the colour shows only the errors."""
    class_names = drawable(class_names)
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
    return save(figure, path)


def reliability(panels: dict[str, FilesCalibration], title: str, path: Path | None = None) -> Figure:
    """Plot reliability diagrams: the accuracy of each bin of the highest probability, before and after calibration.

    The area of a mark shows how many images the bin has. Marks on the diagonal are calibrated.

    Args:
        panels: by title.
        title: of the whole plot.
        path: of the file, if it is to be written.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(4.4, 3.2 * columns), 0.9 + 3.1 * rows), layout="constrained")
    figure.suptitle(title)
    for axes, (name, found) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        axes.set_title(name, fontsize=10)
        axes.plot([0, 100], [0, 100], color="grey", linewidth=1, linestyle=":")
        for label, bins, ece, colour in (
            ("softmax of the logits", found.reliability_uncalibrated, found.ece_uncalibrated, "tab:orange"),
            ("calibrated", found.reliability, found.ece, "tab:blue"),
        ):
            images = sum(row.images for row in bins)
            points = [(100 * row.probability, 100 * row.accuracy) for row in bins]
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linewidth=1,
                alpha=0.5,
                label=f"{label}, ECE {100 * ece:.2f} %",
            )
            sizes = [12 + 160 * row.images / images for row in bins]
            axes.scatter(*zip(*points, strict=True), sizes, color=colour, alpha=0.6, linewidths=0)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.set_xlabel("Highest probability, %")
        axes.set_ylabel("Accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=7)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return save(figure, path)


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: list[str],
    title: str,
    path: Path | None = None,
) -> Figure:
    """Plot misclassified images, uint8 [n, H, W, C], each below its true class and the predicted one."""
    class_names = drawable(class_names)
    columns, rows = 8, max(1, -(-len(images) // 8))
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, label, prediction in zip(figure.axes, images, labels, predictions, strict=False):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{class_names[label]} \N{RIGHTWARDS ARROW} {class_names[prediction]}", fontsize=8)
    return save(figure, path)


def components(
    points: np.ndarray, labels: np.ndarray, class_names: list[str], title: str, path: Path | None = None
) -> Figure:
    """Plot points, [n, 2], coloured by class: the first two principal components of the features."""
    class_names = drawable(class_names)
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
    return save(figure, path)


def save(figure: Figure, path: Path | None) -> Figure:
    """Write a figure as PNG, atomically, where a path is given; return it."""
    for text in figure.findobj(Text):
        text.set(parse_math=False)  # a dollar in the name of a folder or a class is a dollar
    if path is not None:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=110)
    return figure
