"""Receptive fields: which pixels of the image each position of a map depends on."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.training import models

Spans = list[tuple[int, int]]


class Field(NamedTuple):
    """The receptive fields of a map's positions.

    Attributes:
        rows: of each row of the map, the first and the last row of the image that it depends on.
        columns: of each column, likewise.
    """

    rows: Spans
    columns: Spans


def first_convolution(model: nn.Module) -> str:
    """Return the name of the convolution that a network runs first."""
    called: list[nn.Module] = []
    hooks = [one.register_forward_pre_hook(lambda module, _: called.append(module)) for one in _convolutions(model)]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *models.pretrained_cfg(model)["input_size"]))
    finally:
        for hook in hooks:
            hook.remove()
    first: str = next(name for name, module in model.named_modules() if module is called[0])
    return first


@torch.inference_mode()
def receptive_fields(stages: nn.Module, image_size: tuple[int, int, int]) -> list[tuple[tuple[int, int, int], Field]]:
    """Measure shape and receptive fields of the maps of a `Stages`: of its first convolution, and of its own stages.

    A line of the image that is not a number makes one of every value that depends on it, whatever the layers are.

    Args:
        stages: a network with its preprocessing, in evaluation mode.
        image_size: of the dataset's own images, (height, width, channels) in pixels.
    """
    network: Any = stages
    model, count = network.model, 2
    first = model.get_submodule(first_convolution(model))
    caught: list[Tensor] = []
    hook = first.register_forward_hook(lambda _module, _input, output: caught.append(output))
    found: list[list[Spans]] = []
    shapes: list[tuple[int, int, int]] = []
    # Without libraries whose fast convolutions compute neighbouring positions from one another's products.
    with (
        warnings.catch_warnings(action="ignore"),  # of a switch for Intel's GPUs that `flags` touches
        torch.backends.mkldnn.flags(enabled=False),
        torch.backends.nnpack.flags(enabled=False),
    ):
        for axis in (2, 3):
            lines = _lines(network.preprocess, image_size[axis - 2], axis)
            _, maps = model.forward_intermediates(lines, indices=network.indices)
            parts = [caught.pop(), *maps[:count]]
            shapes = [tuple(part.shape[1:]) for part in parts]
            found.append([_spans(part, axis) for part in parts])
    hook.remove()
    rows, columns = found
    return [(shape, Field(down, across)) for shape, down, across in zip(shapes, rows, columns, strict=True)]


def _lines(preprocess: Preprocess, length: int, axis: int) -> Tensor:
    """Network inputs, float32 [length, channels, height, width]: in each, what depends on one line is not a number."""
    size = preprocess.size[axis - 2]
    weights = torch.eye(length)
    if size != length:
        weights = Preprocess.resize(preprocess.at((size, length)), weights[None, None])[0, 0]
    lines = torch.zeros(length, preprocess.mean.shape[1], *preprocess.size)
    for line, touched in enumerate(weights.T != 0):
        lines[line].transpose(1, axis - 1)[:, touched] = torch.nan
    return lines


def _spans(maps: Tensor, axis: int) -> Spans:
    """Find the first and the last line that each position along `axis` depends on; all where it depends on none."""
    seen = maps.isnan().any(1).any(5 - axis - 1)  # [lines, positions]
    spans = []
    for column in seen.T:
        lines = column.nonzero().flatten().tolist() or [0, len(seen) - 1]
        spans.append((lines[0], lines[-1]))
    return spans


def _convolutions(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
