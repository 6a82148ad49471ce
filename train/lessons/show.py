"""Tables and plots of the lessons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from train.data.augment import Augmentation, augment, draw
from train.data.preprocess import Preprocess
from train.lessons.layers import Layer
from train.lessons.signals import Signal
from train.training.results.plots import save

# Enough for small images; notebooks hold many of them.
IMAGE_DPI = 72


@dataclass(frozen=True)
class Table:
    """A table that a notebook shows: titles of the columns, and rows of as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def _repr_markdown_(self) -> str:
        aligned = (
            "---:" if all(isinstance(row[i], int | float) for row in self.rows) else "---" for i in range(self.width)
        )
        lines = [self.columns, list(aligned), *([_cell(value) for value in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.columns)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def layer_table(layers: Sequence[Layer], norms: bool = False) -> Table:
    """Make a table of layers: name, kind, output, parameters, receptive field; those of norms only if asked for."""
    rows = [
        (
            f"`{layer.name}`",
            layer.kind,
            " x ".join(map(str, layer.shape)),
            layer.parameters,
            f"{layer.receptive_field} x {layer.receptive_field}" if layer.receptive_field else "all",
        )
        for layer in layers
        if norms or "Norm" not in layer.kind
    ]
    return Table(("layer", "kind", "output", "parameters", "receptive field"), rows)


def to_pixels(x: Tensor, preprocess: Preprocess) -> np.ndarray:
    """Turn a network's input back into an image: float [n, C, H, W], normalised -> uint8 [n, H, W, C]."""
    pixels = (x * preprocess.std + preprocess.mean).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def as_pixels(images: Tensor) -> np.ndarray:
    """Reorder a dataset's images: uint8 [n, C, H, W] -> [n, H, W, C]."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


def images(
    pixels: np.ndarray | Sequence[np.ndarray], captions: Sequence[str] = (), columns: int = 10, title: str = ""
) -> Figure:
    """Plot images side by side.

    Args:
        pixels: uint8 [n, H, W, C].
        captions: of the images, or none.
        columns: images in a row.
        title: of the whole plot.
    """
    rows = max(1, -(-len(pixels) // columns))
    height = rows * (1.2 if captions else 1.0) + 0.4 * bool(title)
    figure = Figure(figsize=(0.95 * columns, height), dpi=IMAGE_DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for index, (axes, image) in enumerate(zip(figure.axes, pixels, strict=False)):
        _draw_image(axes, image)
        if captions:
            axes.set_title(captions[index], fontsize=8)
    return save(figure, None)


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def receptive_fields(image: np.ndarray, panels: Mapping[str, Sequence[Layer]]) -> Figure:
    """Draw, around the middle of an image, the receptive fields of some layers.

    Args:
        image: as the network sees it, uint8 [H, W, C].
        panels: by title, the layers of a network. Layers that see all of the input are left out.
    """
    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    height, width = image.shape[:2]
    for axes, (title, layers) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        _draw_image(axes, image)
        for index, layer in enumerate(layers):
            if not (side := layer.receptive_field):
                continue
            corner = ((width - side) / 2 - 0.5, (height - side) / 2 - 0.5)
            square = Rectangle(corner, side, side, fill=False, edgecolor=f"C{index}", linewidth=2)
            square.set_label(f"{layer.name}: {side}")
            axes.add_patch(square)
        largest = max([height, *(layer.receptive_field or 0 for layer in layers)])
        margin = (largest - height) / 2 + 2
        axes.set_xlim(-margin - 0.5, width + margin - 0.5)
        axes.set_ylim(height + margin - 0.5, -margin - 0.5)
        axes.set_title(title, fontsize=10)
        axes.legend(loc="upper left", fontsize=7)
    return save(figure, None)


def maps(panels: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Plot maps of values from 0 to 1, float [H, W], side by side, by their titles."""
    figure = Figure(figsize=(2.4 * len(panels), 2.7 + 0.3 * bool(title)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    for axes, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        axes.imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    return save(figure, None)


def signals(series: Mapping[str, Sequence[Signal]]) -> Figure:
    """Plot the spread of activations and of gradients at each layer with weights, from the first to the last."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, 2),
        (("activation", "Forward: spread of the activations"), ("gradient", "Backward: spread of the gradients")),
        strict=True,
    ):
        for index, (label, layers) in enumerate(series.items()):
            values = [getattr(layer, name) for layer in layers]
            style = {"linestyle": "-" if index % 2 else "--", "marker": "o", "markersize": 3}
            axes.plot(range(1, len(values) + 1), values, label=label, **style)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("Layer with weights, the first one at the left")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("Standard deviation")
    figure.axes[1].legend(fontsize=8)
    return save(figure, None)


def lines(series: Mapping[str, Sequence[float]], x_label: str, y_label: str, title: str = "") -> Figure:
    """Plot lines over 1, 2, 3 and so on, by their labels."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for label, values in series.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=label)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return save(figure, None)


def bars(series: Mapping[str, Mapping[str, float]], y_label: str, title: str = "") -> Figure:
    """Plot a group of bars for each name, and in it a bar for each of the series."""
    names = list(next(iter(series.values())))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        left = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        axes.bar(left, [values[name] for name in names], width, label=label)
    axes.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 5 else 0)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=len(series), fontsize=9)
    return save(figure, None)


def augmented(
    image: Tensor, augmentation: Augmentation, preprocess: Preprocess, copies: int, seed: int = 0
) -> np.ndarray:
    """Augment one image several times, as so many epochs of a training would show it.

    Args:
        image: uint8 [C, H, W], of the dataset.
        augmentation: the ranges of its parameters.
        preprocess: of the network that is trained.
        copies: how many times.
        seed: of the random numbers.

    Returns:
        uint8 [copies, *preprocess.size, C], as the network sees it.
    """
    draws = draw(copies, augmentation, seed, epoch=0)
    images = image.expand(copies, *image.shape)
    return to_pixels(augment(images, draws.uniform, draws.mirrored, augmentation, preprocess), preprocess)


def confidences(series: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Plot how often the highest probability of an image has which value.

    Args:
        series: probabilities, float [n, classes], by label.
        title: of the plot.
    """
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    edges = [5.0 * i for i in range(21)]
    for label, probabilities in series.items():
        axes.hist(100 * probabilities.max(1), edges, histtype="step", linewidth=1.8, label=label)
    axes.set_xlabel("Highest probability, %")
    axes.set_ylabel("Images")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
    return save(figure, None)
