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

# The column of `log.csv` that runs with label smoothing have in addition.
SMOOTHED = "validation_loss_smoothed"

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


def curves_beside(logs: dict[str, list[dict[str, float]]], metric: str, title: str, path: Path | None = None) -> Figure:
    """Plot "loss" or "accuracy" over the epochs of several runs, side by side and with the same scale.

    Args:
        logs: rows by panel title.
        metric: "loss" or "accuracy".
        title: of the whole plot.
        path: of the file, if it is to be written.
    """
    figure = Figure(figsize=(max(5, 3.67 * len(logs)), 3.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(logs), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, rows) in zip(panels, logs.items(), strict=True):
        axes.set_title(name, fontsize=10)
        _draw(axes, rows, metric)
    if metric == "loss":
        panels[0].set_ylim(bottom=0)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(lines))
    return save(figure, path)


def _draw(axes: Axes, rows: list[dict[str, float]], metric: str) -> None:
    """Draw a log's "loss" or "accuracy" over the epochs."""
    for split, colour in COLOURS.items():
        epochs = [row["epoch"] for row in rows]
        axes.plot(
            epochs, [row[f"{split}_{metric}"] for row in rows], color=colour, marker="o", markersize=3, label=split
        )
    smoothed = [(row["epoch"], row[SMOOTHED]) for row in rows if metric == "loss" and SMOOTHED in row]
    if smoothed:
        label = "validation, labels smoothed as in training"
        axes.plot(*zip(*smoothed, strict=True), color=COLOURS["validation"], linestyle="--", linewidth=1, label=label)
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Accuracy, %" if metric == "accuracy" else "Loss")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)


def class_accuracies(
    panels: dict[str, dict[str, dict[str, float]]],
    title: str,
    path: Path | None = None,
    colours: list[str] | None = None,
    lowest: float = 0.0,
) -> Figure:
    """Plot the accuracy of each class in percent: a group of bars for each class, a bar for each model.

    Where there are several models, a line marks the mean of a group, and the class with the lowest one is in bold.

    Args:
        panels: accuracies by class, by model, by the panel's title.
        title: of the whole plot.
        path: of the file, if it is to be written.
        colours: of the models, in their order.
        lowest: where the axis begins; the axis says so if it is not zero.
    """
    names = list(dict.fromkeys(name for models in panels.values() for values in models.values() for name in values))
    shown = drawable(names)
    figure = Figure(figsize=(9, 0.9 + 2.5 * len(panels)), layout="constrained")
    figure.suptitle(title)
    for axes, (panel, models) in zip(figure.subplots(len(panels), 1, squeeze=False).flat, panels.items(), strict=True):
        axes.set_title(panel, fontsize=10)
        width = 0.8 / len(models)
        for i, (model, values) in enumerate(models.items()):
            places = [names.index(name) - 0.4 + (i + 0.5) * width for name in values]
            axes.bar(places, list(values.values()), width, color=colours[i] if colours else None, label=model)
        axes.set_xticks(range(len(names)), shown)
        axes.set_ylim(lowest, 100)
        axes.set_ylabel("Accuracy, %" + (f" (from {lowest:g})" if lowest else ""))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if len(models) > 1:
            _mark_means(axes, names, models)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return save(figure, path)


def _mark_means(axes: Axes, names: list[str], models: dict[str, dict[str, float]]) -> None:
    """Mark the mean over the models in each group of bars, and the class with the lowest one."""
    means = [float(np.mean([values[name] for values in models.values() if name in values])) for name in names]
    places = np.arange(len(names))
    axes.hlines(means, places - 0.43, places + 0.43, color="black", linewidth=1.5, label="mean of the models")
    hardest = int(np.argmin(means))
    axes.get_xticklabels()[hardest].set_fontweight("bold")
    axes.annotate(
        f"{means[hardest]:.2f}",
        (hardest, means[hardest]),
        (0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        fontweight="bold",
        bbox={"boxstyle": "round,pad=0.1", "fc": "white", "lw": 0},
    )


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


def reliability(panels: dict[str, FilesCalibration], title: str, path: Path | None = None, columns: int = 3) -> Figure:
    """Plot reliability diagrams: the accuracy of each bin of the highest probability, before and after calibration.

    The area of a mark shows how many images the bin has. Marks on the diagonal are calibrated.

    Args:
        panels: by title.
        title: of the whole plot.
        path: of the file, if it is to be written.
        columns: panels beside each other.
    """
    columns = min(columns, len(panels))
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
