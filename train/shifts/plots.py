"""Plots of accuracy on corrupted images, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.shifts.corruptions.catalog import CORRUPTIONS, SEVERITIES
from train.shifts.robustness import Robustness
from train.training.results.plots import save

LINES = {"vanilla": "--", "improved": "-"}


def of_model(found: Robustness, dataset: str, title: str, path: Path) -> None:
    """Plot a model's accuracy: a heat map of corruption and severity, and a line for each group of corruptions."""
    names = list(found.corruptions)
    cells = np.full((len(names), len(SEVERITIES)), np.nan)
    for row, scores in zip(cells, found.corruptions.values(), strict=True):
        row[: len(scores.accuracy)] = scores.accuracy
    figure = Figure(figsize=(10, 1.4 + 0.3 * len(names)), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _heat_map(left, cells, names, [str(severity) for severity in SEVERITIES])
    left.set_xlabel("Severity")
    groups: dict[str, list[str]] = {}
    for corruption in CORRUPTIONS[dataset]:
        if len(corruption.levels) > 1:
            groups.setdefault(corruption.group, []).append(corruption.name)
    for group, members in groups.items():
        means = np.mean([found.corruptions[name].accuracy for name in members], 0)
        right.plot([0, *SEVERITIES], [found.clean.accuracy, *means], marker="o", markersize=4, label=group)
    _severity_axis(right)
    right.legend(loc="lower left")
    save(figure, path)


def corruptions(rows: Mapping[str, Robustness], title: str, path: Path) -> None:
    """Plot a heat map of models, by their titles, and corruptions: accuracy, the mean of the severities."""
    names = list(next(iter(rows.values())).corruptions)
    cells = np.array(
        [
            [found.clean.accuracy, found.mean.accuracy, *(found.corruptions[name].mean.accuracy for name in names)]
            for found in rows.values()
        ]
    )
    figure = Figure(figsize=(2.6 + 0.52 * (len(names) + 2), 2.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _heat_map(axes, cells, list(rows), ["clean", "mean", *names])
    axes.set_xticks(range(len(names) + 2), ["clean", "mean", *names], rotation=50, ha="right")
    axes.set_title(title)
    save(figure, path)


def severities(families: Mapping[str, Mapping[str, Robustness]], title: str, path: Path) -> None:
    """Plot the mean accuracy over the severities: a colour for each family, vanilla dashed and improved solid.

    Args:
        families: by title, as in "ResNet18", and then by kind, "vanilla" or "improved".
        title: of the plot.
        path: of the file.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (family, kinds) in enumerate(families.items()):
        for kind, found in kinds.items():
            axes.plot(
                [0, *SEVERITIES],
                [found.clean.accuracy, *found.by_severity.accuracy],
                LINES[kind],
                color=f"C{index}",
                marker="o",
                markersize=4,
                label=f"{family}, {kind}",
            )
    _severity_axis(axes)
    axes.legend(fontsize=9)
    axes.set_title(title)
    save(figure, path)


def _severity_axis(axes: Axes) -> None:
    axes.set_xlabel("Severity (0: clean images)")
    axes.set_ylabel("Accuracy, %")
    axes.grid(alpha=0.3)


def _heat_map(axes: Axes, cells: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw accuracies in percent, float [rows, columns]; NaN leaves a cell empty."""
    axes.imshow(cells, cmap="RdYlGn", vmin=10, vmax=100, aspect="auto")
    for i, j in np.argwhere(np.isfinite(cells)):
        axes.text(j, i, f"{cells[i, j]:.1f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
