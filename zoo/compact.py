"""The compact form in which the larger networks' weights are published, and how to read it.

A compact checkpoint is a safetensors file like any other, but some tensors `name` are kept as others that give them:

* `name.int8` [rows, ...] and `name.scale` [rows, blocks]: 8-bit integers, and one factor for each block of 64 of a row.
* `name.left` [out, rank] and `name.right` [rank, in]: their product.
* `name.cells` [size], beside `name`: a linear layer on a pooled grid of size x size cells, of which `name` itself holds
  the distinct ones; entry i says which of them row i, and column i, of the grid repeats.

They nest: factors may be 8-bit integers, and their product the weights of distinct cells.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BLOCK", "expand", "from_blocks", "repeat_cells", "to_blocks"]

BLOCK = 64


def to_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a tensor [rows, ...] to 8 bits: int8 of its shape, and float16 [rows, blocks], a factor for each block.

    Raises:
        ValueError: a weight is not finite, or too large for a factor in half precision.
    """
    rows = weight.detach().float().flatten(1)
    columns = rows.shape[1]
    blocks = F.pad(rows, (0, -columns % BLOCK)).unflatten(1, (-1, BLOCK))
    # Half precision is exact enough for a factor, as the integers are made for the factor that is kept. Small factors,
    # those of weights below 0.008, are multiples of 2**-24: up, or the largest weights were cut off.
    scale = (blocks.abs().amax(2) / 127 + 2**-25).half()
    if not scale.isfinite().all():
        raise ValueError("weights do not fit 8-bit blocks: some are not finite, or above 8 million")
    steps = scale.float().clamp(min=2**-24)[..., None]
    integers = (blocks / steps).round().clamp(-127, 127).to(torch.int8)
    return integers.flatten(1)[:, :columns].reshape(weight.shape).contiguous(), scale


def from_blocks(integers: Tensor, scale: Tensor) -> Tensor:
    """float32, of the shape of `integers`; what `to_blocks` rounded."""
    rows = integers.flatten(1)
    factors = scale.float().repeat_interleave(BLOCK, dim=1)[:, : rows.shape[1]]
    return (rows.float() * factors).reshape(integers.shape)


def repeat_cells(weight: Tensor, cells: Tensor) -> Tensor:
    """The weights of a linear layer on a pooled grid from those of its distinct cells.

    Args:
        weight: [out, channels * n * n], for the n x n distinct cells of the grid.
        cells: integers [size], which of the n each row, and each column, of the grid repeats.

    Returns:
        [out, channels * size * size].
    """
    cells = cells.long().to(weight.device)
    n = int(cells.max()) + 1
    grid = weight.view(len(weight), -1, n, n)
    return grid.index_select(2, cells).index_select(3, cells).flatten(1)


def expand(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole state dict from a compact one; one that is whole already comes back as it is.

    Raises:
        KeyError: a tensor's other half is missing.
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
