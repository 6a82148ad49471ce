"""The compact form in which weights are published, and how to read it.

A compact checkpoint is a safetensors file in which a tensor `name` may be replaced by others:

* `name.int8` [rows, ...] and `name.scale` [rows, blocks]: 8-bit integers, and a factor for each block of 64 in a row.
* `name.left` [out, rank] and `name.right` [rank, in]: `name` is their product.
* `name.cells` [size], beside `name`: the weights of a linear layer on a pooled grid of size x size cells. `name` holds
  the distinct cells; row i and column i of the grid are copies of row and column `cells[i]` of these.

The forms nest: `left` and `right` may be 8-bit integers, and their product the weights of distinct cells.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BLOCK", "expand", "from_blocks", "repeat_cells", "to_blocks"]

BLOCK = 64


def to_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a tensor to 8-bit integers with a factor for each block.

    Args:
        weight: [rows, ...].

    Returns:
        int8 [rows, ...] and float16 [rows, blocks].

    Raises:
        ValueError: a weight is not finite, or too large for a factor in half precision.
    """
    rows = weight.detach().float().flatten(1)
    columns = rows.shape[1]
    blocks = F.pad(rows, (0, -columns % BLOCK)).view(len(rows), -1, BLOCK)
    # Half precision is enough for a factor, as the integers are computed from the rounded one. Small factors, those of
    # weights below 0.008, are multiples of 2**-24: they are rounded up, or the largest weights would be clipped.
    scale = (blocks.abs().amax(2) / 127 + 2**-25).half()
    if not scale.isfinite().all():
        raise ValueError("weights do not fit 8-bit blocks: some are not finite, or above 8 million")
    steps = scale.float().clamp(min=2**-24)[..., None]
    integers = (blocks / steps).round().clamp(-127, 127).to(torch.int8)
    return integers.flatten(1)[:, :columns].reshape(weight.shape).contiguous(), scale


def from_blocks(integers: Tensor, scale: Tensor) -> Tensor:
    """Undo `to_blocks`, but for its rounding: float32 [rows, ...]."""
    rows = integers.flatten(1)
    factors = scale.float().repeat_interleave(BLOCK, dim=1)[:, : rows.shape[1]]
    return (rows.float() * factors).reshape(integers.shape)


def repeat_cells(weight: Tensor, cells: Tensor) -> Tensor:
    """Compute the weights of a linear layer on a pooled grid from those of its distinct cells.

    Args:
        weight: [out, channels * n * n], for the n x n distinct cells of the grid.
        cells: integers [size] in 0..n-1: the distinct row that each row of the grid copies; likewise for columns.

    Returns:
        [out, channels * size * size].
    """
    cells = cells.long().to(weight.device)
    n = int(cells.max()) + 1
    copied = (cells[:, None] * n + cells).flatten()
    grids = weight.view(-1, n * n)
    return grids.gather(1, copied.expand(len(grids), -1)).view(len(weight), -1)


def expand(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Expand a compact state dict; tensors that are whole already stay as they are.

    Raises:
        KeyError: one of the two tensors that replace another is missing.
    """
    state = dict(state_dict)
    for key in [key for key in state if key.endswith(".int8")]:
        name = key.removesuffix(".int8")
        state[name] = from_blocks(state.pop(key), state.pop(f"{name}.scale"))
    for key in [key for key in state if key.endswith(".left")]:
        name = key.removesuffix(".left")
        state[name] = state.pop(key).float() @ state.pop(f"{name}.right").float()
    for key in [key for key in state if key.endswith(".cells")]:
        name = key.removesuffix(".cells")
        state[name] = repeat_cells(state[name].float(), state.pop(key))
    return state
