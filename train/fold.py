"""VGG16's pooled grid at a known input size has few distinct cells; its first linear layer folds accordingly, exactly.

At 64x64 the last map is 2x2: of the improved network's 5x5 cells 9 differ. At 32x32 it is 1x1, and the vanilla
network's 7x7 are all one. The folded layer has 4,608 inputs for 12,800, and 512 for 25,088.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.vgg import AdaptiveMaxPool2d, PooledVGG


def windows(length: int, size: int) -> list[tuple[int, int]]:
    """PyTorch's adaptive pooling windows, start and end, from `length` cells to `size`."""
    return [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]


class DistinctCells(nn.Module):
    """What an adaptive pool gives, each distinct cell once: [..., length, length] -> [..., n, n]."""

    def __init__(self, length: int, size: int, maximum: bool) -> None:
        super().__init__()
        self.windows = sorted(set(windows(length, size)))
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        for dim in (2, 3):
            cells = [x.narrow(dim, start, end - start) for start, end in self.windows]
            x = torch.cat(
                [cell.amax(dim, keepdim=True) if self.maximum else cell.mean(dim, keepdim=True) for cell in cells], dim
            )
        return x


def fold(model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
    """A model that gives the same logits for inputs of this size, with VGG16's first linear layer folded.

    Other models, and VGGs at sizes where every cell differs, are returned as they are. The sums of weights that take
    the place of the weights are float32: the logits agree to float precision.
    """
    if not isinstance(model, PooledVGG):
        return model
    mlp: Any = model.pre_logits
    maximum = isinstance(mlp.pool, AdaptiveMaxPool2d)
    size = int(mlp.pool.output_size)
    length = input_size[1] // 32  # five pools of two
    all_windows = windows(length, size)
    pool = DistinctCells(length, size, maximum)
    n = len(pool.windows)
    if n == size or input_size[1] != input_size[2]:
        return model
    group = torch.tensor([pool.windows.index(window) for window in all_windows])
    hidden = mlp.fc1.out_features
    weight = mlp.fc1.weight.detach().double().view(hidden, -1, size, size)
    weight = torch.zeros(*weight.shape[:2], n, size, dtype=weight.dtype).index_add_(2, group, weight)
    weight = torch.zeros(*weight.shape[:3], n, dtype=weight.dtype).index_add_(3, group, weight)

    folded: Any = copy.deepcopy(model)
    folded.pre_logits.pool = pool
    folded.pre_logits.fc1 = nn.Linear(n * n * model.num_features, hidden)
    with torch.no_grad():
        folded.pre_logits.fc1.weight.copy_(weight.flatten(1))
        folded.pre_logits.fc1.bias.copy_(mlp.fc1.bias)
    return folded.eval()
