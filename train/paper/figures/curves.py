"""Loss and accuracy over the epochs as in the paper's Figures 5 to 8: a row for each family, vanilla on the left.

All plots of a dataset have the same scale, so that networks and recipes can be compared, and show whole curves.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from train.paper import ours
from train.training.results.plots import COLOURS, SMOOTHED, save
from zoo.catalog import NETWORKS

Rows = list[dict[str, float]]
# The paper's order of the families, from top to bottom.
FAMILIES = ("vgg16", "resnet18", "googlenet")
# The loss is linear up to here and logarithmic above: nearly all of MNIST's lies close to 0, and some epochs of
# CIFAR-10 jump to several times the others.
LINEAR_BELOW = {"mnist": 0.01, "cifar10": 1.0}
LINEAR_SHARE = {"mnist": 0.7, "cifar10": 1.6}  # of the axis, in decades of the logarithmic part
LOSS_TICKS = {"mnist": (0, 0.01, 0.03, 0.1, 0.3, 1, 2, 5), "cifar10": (0, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10)}
# Whose accuracy is stretched towards 100 %.
STRETCHED = "mnist"
ACCURACY_TICKS = (20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100)
TEACHER = (0, (2, 1))


@dataclass(frozen=True)
class Chain(ours.Chain):
    """What a panel shows of the runs that led to a network's weights.

    Attributes:
        marks: epochs of the paper's own log.
        taught: the last run learnt from a teacher: its training loss is mostly about the teacher's outputs.
    """

    marks: Rows = field(default_factory=list)
    taught: bool = False


@dataclass(frozen=True)
class Scale:
    """What all plots of a dataset's metric have in common: the limits of their axis."""

    dataset: str
    low: float
    high: float


def scale(dataset: str, metric: str, chains: Iterable[Chain]) -> Scale:
    """Return the scale on which all values of some logs can be seen."""
    names = [*(f"{split}_{metric}" for split in COLOURS), *([SMOOTHED] if metric == "loss" else [])]
    rows = [row for chain in chains for row in (*chain.rows, *chain.marks)]
    values = [row[name] for row in rows for name in names if name in row]
    if metric == "accuracy":
        return Scale(dataset, min(10 * math.floor(min(values) / 10), 90), 100.02 if dataset == STRETCHED else 101)
    return Scale(dataset, -0.04 * LINEAR_BELOW[dataset], 1.1 * max(values))


def grid(chains: Mapping[str, Chain], metric: str, axis: Scale, title: str, path: Path) -> None:
    """Plot "loss" or "accuracy" of a dataset's six networks over the epochs; one without a log gets an empty panel.

    Args:
        chains: by model.
        metric: "loss" or "accuracy".
        axis: of the metric.
        title: of the whole plot.
        path: of the file.
    """
    figure = Figure(figsize=(8.5, 8.6), layout="constrained")
    figure.suptitle(title)
    axes_of = figure.subplots(len(FAMILIES), 2, sharex="row", sharey=True)
    lengths = {model: len(chain.rows) for model, chain in chains.items()}
    for row, family in zip(axes_of, FAMILIES, strict=True):
        longest = max((length for model, length in lengths.items() if model.endswith(family)), default=0)
        row[0].set_xlim(0, (longest or max(lengths.values())) + 1)
        for axes, kind in zip(row, ("vanilla", "improved"), strict=True):
            model = f"{kind}_{family}"
            axes.set_title(NETWORKS[model].title, fontsize=10)
            _set_scale(axes, metric, axis)
            if model in chains:
                _draw(axes, chains[model], metric)
            else:
                axes.text(0.5, 0.5, "not run yet", ha="center", va="center", color="grey", transform=axes.transAxes)
    for axes in axes_of[:, 0]:
        axes.set_ylabel("Accuracy, %" if metric == "accuracy" else "Loss")
    for axes in axes_of[-1]:
        axes.set_xlabel("Epoch")
    handles: dict[str, Line2D] = {}
    for axes in axes_of.flat:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)


def _set_scale(axes: Axes, metric: str, axis: Scale) -> None:
    if metric == "loss":
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW[axis.dataset], linscale=LINEAR_SHARE[axis.dataset])
        axes.yaxis.set_major_locator(FixedLocator(list(LOSS_TICKS[axis.dataset])))
    elif axis.dataset == STRETCHED:
        # As the logarithm of the errors, with something added that keeps 100 % in the frame.
        functions = (lambda y: -np.log10(100.1 - np.minimum(y, 100.05)), lambda y: 100.1 - 10**-y)
        axes.set_yscale("function", functions=functions)
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ACCURACY_TICKS if tick >= axis.low]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_ylim(axis.low, axis.high)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)


def _draw(axes: Axes, chain: Chain, metric: str) -> None:
    """Draw the whole chain, each run on its own; a line where one ends and the next begins."""
    start = 0
    for i, run in enumerate(chain.runs):
        epochs = [row["epoch"] + start for row in run]
        for split, colour in COLOURS.items():
            of_teacher = chain.taught and i == len(chain.runs) - 1 and (split, metric) == ("train", "loss")
            style, label = (TEACHER, f"{split}, with a teacher") if of_teacher else ("-", split)
            values = [row[f"{split}_{metric}"] for row in run]
            axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.4, label=label)
        if metric == "loss" and any(SMOOTHED in row for row in run):
            values = [row.get(SMOOTHED, math.nan) for row in run]
            label = "validation, labels smoothed as in training"
            axes.plot(epochs, values, color=COLOURS["validation"], linestyle="--", linewidth=1, label=label)
        start += len(run)
        if i < len(chain.runs) - 1:
            label = "next run, from these weights"
            axes.axvline(start + 0.5, color="grey", linestyle=":", linewidth=1.2, label=label)
    if chain.missing:
        note = f"the last {len(chain.runs)} of {len(chain.runs) + chain.missing} runs"
        axes.text(0.98, 0.03, note, ha="right", transform=axes.transAxes, fontsize=8, color="grey")
    for split, colour in COLOURS.items() if chain.marks else ():
        smoothed = (split, metric) == ("validation", "loss") and SMOOTHED in chain.marks[0]
        name = SMOOTHED if smoothed else f"{split}_{metric}"
        axes.plot(
            [row["epoch"] for row in chain.marks],
            [row[name] for row in chain.marks],
            "s" if smoothed else "D",
            color=colour,
            markerfacecolor="white",
            markersize=5,
            label=f"{split}{', labels smoothed' if smoothed else ''}, the paper's log",
            clip_on=False,  # a loss that the paper prints as 0.0000 is whole
            zorder=5,
        )
