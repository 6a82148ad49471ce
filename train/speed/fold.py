"""VGG16's first linear layer, folded exactly: its pooled grid has few distinct cells at a known input size.

The vanilla network trains 1.5 times as fast with it. At 64x64 the last map is 2x2, and 9 of the improved network's 5x5
cells differ: the folded layer has 4,608 inputs instead of 12,800. At 32x32 the last map is 1x1, and the vanilla
network's 7x7 cells are all the same: 512 inputs instead of 25,088.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compact import repeat_cells
from zoo.vgg import AdaptiveAvgPool2d, AdaptiveMaxPool2d, PooledVGG, pool_slices, windows

# Columns of the first attempt to find a layer's range: more than the rank that train/cards/compact.py stores.
FIRST_COLUMNS = 128


def groups(length: int, size: int) -> list[int]:
    """Number the distinct cells of a pool along one side, for a map of `length`: 2, 5 -> [0, 0, 1, 2, 2]."""
    distinct = sorted(set(windows(length, size)))
    return [distinct.index(window) for window in windows(length, size)]


class DistinctCells(nn.Module):
    """An adaptive pool that gives each distinct cell once: [..., side, side] -> [..., n, n].

    The distinct cells are those of maps of `length`. In a smaller map, cells of one group are the same too.

    Args:
        length: side of the map.
        size: side of the pool's grid.
        maximum: whether it is a max pool; else an average pool.
        scaled: multiply each cell by the square root of how often it occurs; see `fold`.

    Attributes:
        repeats: float32 [n, n], how often each distinct cell occurs in the pool's grid.
    """

    repeats: Tensor

    def __init__(self, length: int, size: int, maximum: bool, scaled: bool = False) -> None:
        super().__init__()
        self.groups = groups(length, size)
        self.size = size
        self.maximum = maximum
        first = [self.groups.index(group) for group in range(max(self.groups) + 1)]
        self.first = first
        counts = torch.tensor([float(self.groups.count(group)) for group in range(len(first))])
        self.register_buffer("repeats", counts.outer(counts), persistent=False)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        """Pool [..., side, side] to [..., n, n]."""
        x = pool_slices(x, self.size, _max if self.maximum else torch.mean, self.first)
        return x * self.repeats.sqrt().to(x.dtype) if self.scaled else x


def _max(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """Reduce by `max`, not `amax`: with equal values its gradient goes to one of them, as the pool's does."""
    return x.max(dim, keepdim).values


def fold(model: nn.Module, input_size: tuple[int, int, int], to_train: bool = False) -> nn.Module:
    """Make a model with the same logits for inputs of this size, with VGG16's first linear layer folded.

    Other models, and VGGs at sizes where every cell differs, are returned as they are. The folded weights, sums of
    weights, are float32: the logits agree to float precision.

    Args:
        model: a VGG16, or any other model.
        input_size: (channels, height, width).
        to_train: scale the cells so that training the folded network is training the whole one, with fewer weights.
            The n weights for the same cell get the same gradient, so their sum w moves n times as far as each. The
            weight u = w / sqrt(n), for the cell times sqrt(n), moves just so under SGD with momentum and weight
            decay, and starts with the variance of the single weights.
    """
    if not isinstance(model, PooledVGG):
        return model
    mlp: Any = model.pre_logits
    length = input_size[1] // 32  # five pools of two
    pool = DistinctCells(length, int(mlp.pool.output_size), isinstance(mlp.pool, AdaptiveMaxPool2d), to_train)
    n, size = len(pool.first), pool.size
    if n == size or input_size[1] != input_size[2]:
        return model
    group = torch.tensor(pool.groups)
    hidden = mlp.fc1.out_features
    weight = mlp.fc1.weight.detach().double().view(hidden, -1, size, size)
    weight = torch.zeros(*weight.shape[:2], n, size, dtype=weight.dtype).index_add_(2, group, weight)
    weight = torch.zeros(*weight.shape[:3], n, dtype=weight.dtype).index_add_(3, group, weight)
    if pool.scaled:
        weight /= pool.repeats.sqrt()

    fc1 = nn.Linear(n * n * model.num_features, hidden)
    with torch.no_grad():
        fc1.weight.copy_(weight.flatten(1))
        fc1.bias.copy_(mlp.fc1.bias)
    return _with(model, pool, fc1)


def factor(model: nn.Module) -> nn.Module:
    """Make a network in evaluation mode with the same logits, with VGG16's linear layers of low rank as two layers."""
    if not isinstance(model, PooledVGG):
        return model
    factored = copy.deepcopy(model)
    mlp: Any = factored.pre_logits
    mlp.fc1, mlp.fc2 = _factors(mlp.fc1), _factors(mlp.fc2)
    return factored


@torch.no_grad()
def _factors(layer: nn.Linear) -> nn.Module:
    """Split a linear layer into two, if its rank is so low that they have less than half of its weights."""
    out, inputs = layer.weight.shape
    most = out * inputs // (2 * (out + inputs))
    generator = torch.Generator().manual_seed(0)
    weight = layer.weight.double()
    # The range of W is that of W times a random matrix with more columns than the rank. Few columns are tried first, as
    # the time grows with the square of their number.
    columns, rank = 0, 0
    while rank == columns:
        if rank > most:
            return layer
        columns = min(4 * columns or FIRST_COLUMNS, most + 1)
        sketch = weight @ torch.randn(inputs, columns, generator=generator, dtype=weight.dtype)
        basis = torch.linalg.qr(sketch).Q
        left, values, right = torch.linalg.svd(basis.T @ weight, full_matrices=False)
        rank = int((values > 1e-6 * values[0]).sum())
    # A random rotation: directions that share a scale when they are quantised should have similar sizes.
    turn = torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=weight.dtype)).Q
    root = values[:rank].sqrt()
    first, second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, out)
    first.weight.copy_(turn @ (root[:, None] * right[:rank]))
    second.weight.copy_(basis @ (left[:, :rank] * root) @ turn.T)
    second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def unfold(model: nn.Module) -> nn.Module:
    """Undo `fold(..., to_train=True)`; each cell of a group gets the same weights.

    Other models are returned as they are.
    """
    mlp: Any = getattr(model, "pre_logits", None)
    if not isinstance(model, PooledVGG) or not isinstance(mlp.pool, DistinctCells):
        return model
    pool = mlp.pool
    weight = mlp.fc1.weight.detach().view(mlp.fc1.out_features, -1, len(pool.first), len(pool.first))
    weight = repeat_cells((weight / pool.repeats.sqrt()).flatten(1), torch.tensor(pool.groups))
    fc1 = nn.Linear(weight.shape[1], mlp.fc1.out_features, device=weight.device)
    with torch.no_grad():
        fc1.weight.copy_(weight)
        fc1.bias.copy_(mlp.fc1.bias)
    return _with(model, (AdaptiveMaxPool2d if pool.maximum else AdaptiveAvgPool2d)(pool.size), fc1)


def _with(model: PooledVGG, pool: nn.Module, fc1: nn.Linear) -> nn.Module:
    """Copy a VGG16 with another pool and first linear layer."""
    mlp: Any = model.pre_logits
    # Those two are not copied first: the layer may hold 100 million weights.
    other = copy.deepcopy(model, {id(mlp.pool): pool, id(mlp.fc1): fc1})
    return other.train(model.training)
