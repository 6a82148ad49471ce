"""3x3 convolutions in float32 on a CPU: by Winograd's algorithm, and on maps of 1x1 and 2x2 as what is left of them.

PyTorch's own convolutions multiply directly. Winograd's F(4x4, 3x3) (Lavin and Gray, 2015, arXiv 1509.09308) gets 16
outputs from 36 products for each pair of channels instead of 144; its transforms are products with small constant
matrices. A map of 1x1 meets only the kernel's middle, and one of 2x2 at most four of its nine weights at once, where
PyTorch computes all nine and pads. docs/recipe.md has what that makes of a training step.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Outputs along one side of a tile, and the inputs that they depend on.
OUT, IN = 4, 6
# With fewer, the transforms cost more than they save.
FEWEST_CHANNELS = 32
# Tiles worked on at once: few enough to stay in the processor's cache on their way, and enough for the kernel to be
# brought there for.
TILES = 128


def _square(rows: list[list[float]]) -> Tensor:
    """The matrix that applies `rows` along both axes of a flattened square."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix).float()


# B^T, G and A^T of the paper, for the points 0, 1, -1, 2, -2 and infinity.
_INPUT = _square(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = _square(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = _square(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


class Conv2d(nn.Conv2d):
    """An `nn.Conv2d` of 3x3, stride 1 and padding 1, that computes in another way where that is faster.

    Everything but its forward and backward passes is its parent's. The results agree to a few units in the fifth
    digit; under autocast, in other types and on other devices they are the parent's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        ours = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and len(x)
        if ours and max(x.shape[2:]) <= 2:
            return _Dense.apply(x, self.weight, self.bias)
        if ours and min(x.shape[2:]) > 2 and min(self.weight.shape[:2]) >= FEWEST_CHANNELS:
            return _Winograd.apply(x, self.weight, self.bias)
        return super().forward(x)


def use_faster(model: nn.Module) -> None:
    """Have a network's 3x3 convolutions compute in the faster way; see `Conv2d`. `use_own` undoes it.

    The modules change their class and stay the same otherwise, so that nothing else sees a difference.
    """
    _change_class(model, nn.Conv2d, Conv2d)


def use_own(model: nn.Module) -> None:
    """Undo `use_faster`."""
    _change_class(model, Conv2d, nn.Conv2d)


def _change_class(model: nn.Module, before: type[nn.Conv2d], after: type[nn.Conv2d]) -> None:
    for module in model.modules():
        if type(module) is before and _fits(module):
            module.__class__ = after


def _fits(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.dilation, conv.groups, conv.padding, conv.padding_mode) == (
        (3, 3), (1, 1), (1, 1), 1, (1, 1), "zeros",
    )  # fmt: skip


class _Winograd(torch.autograd.Function):
    """Maps of any size. Images are worked on in chunks, and transformed anew on the way back: that takes less time than
    bringing the transformed ones, 2.25 times the size, from memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = len(weight)
        kernel = (_KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(IN * IN, *weight.shape[:2])
        images = x.permute(0, 2, 3, 1).contiguous()
        y, to = _new_output(x, out)
        for chunk in _chunks(images):
            products = torch.bmm(_transformed(images[chunk]), kernel.transpose(1, 2))
            _put_tiles(to[chunk], _OUTPUT @ products.view(IN * IN, -1))
        if bias is not None:
            to += bias
        ctx.save_for_backward(images, kernel)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        images, kernel = ctx.saved_tensors
        out, channels = kernel.shape[1:]
        dy = gradient.permute(0, 2, 3, 1).contiguous()
        dx = torch.empty_like(images) if ctx.needs_input_grad[0] else None
        dkernel = torch.zeros_like(kernel)
        for chunk in _chunks(images):
            dproducts = (_OUTPUT.T @ _tiles(dy[chunk])).view(IN * IN, -1, out)
            dkernel.baddbmm_(dproducts.transpose(1, 2), _transformed(images[chunk]))
            if dx is not None:
                _put_overlapping(dx[chunk], _INPUT.T @ torch.bmm(dproducts, kernel).view(IN * IN, -1))
        dweight = (_KERNEL.T @ dkernel.view(IN * IN, -1)).view(3, 3, out, channels).permute(2, 3, 0, 1)
        return (
            None if dx is None else dx.permute(0, 3, 1, 2),
            dweight.contiguous(memory_format=torch.channels_last),
            dy.sum((0, 1, 2)) if ctx.has_bias else None,
        )


def _new_output(x: Tensor, out: int) -> tuple[Tensor, Tensor]:
    """A result [n, out, h, w] in channels_last, and the same memory as [n, h, w, out].

    The first is no view, which autograd would not let an in-place ReLU change.
    """
    n, _, height, width = x.shape
    y = torch.empty((n, out, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    return y, y.permute(0, 2, 3, 1)


def _chunks(images: Tensor) -> list[slice]:
    """Cuts a batch [n, h, w, c] into pieces of about `TILES` tiles."""
    rows, columns = _tiling(images)
    step = max(1, TILES // (rows * columns))
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _tiling(images: Tensor) -> tuple[int, int]:
    """How many tiles cover [n, h, w, c] in height and width."""
    return -(-images.shape[1] // OUT), -(-images.shape[2] // OUT)


def _transformed(images: Tensor) -> Tensor:
    """The overlapping patches of 6x6 of [n, h, w, c], transformed: [36, tiles, c]."""
    rows, columns = _tiling(images)
    n, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, 1, OUT * columns + 1 - width, 1, OUT * rows + 1 - height))
    image, row, column, channel = padded.stride()
    patches = padded.as_strided(
        (IN, IN, n, rows, columns, channels), (row, column, image, OUT * row, OUT * column, channel)
    )
    return (_INPUT @ patches.reshape(IN * IN, -1)).view(IN * IN, -1, channels)


def _tiles(y: Tensor) -> Tensor:
    """The tiles of 4x4 of [n, h, w, c], zero beyond its edge: [16, tiles * c]."""
    rows, columns = _tiling(y)
    n, height, width, channels = y.shape
    if (height, width) != (OUT * rows, OUT * columns):
        y = F.pad(y, (0, 0, 0, OUT * columns - width, 0, OUT * rows - height))
    return y.view(n, rows, OUT, columns, OUT, channels).permute(2, 4, 0, 1, 3, 5).reshape(OUT * OUT, -1)


def _put_tiles(y: Tensor, tiles: Tensor) -> None:
    """Writes tiles [16, tiles * c] to [n, h, w, c], without what is beyond its edge."""
    rows, columns = _tiling(y)
    n, height, width, channels = y.shape
    tiles = tiles.view(OUT, OUT, n, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    if (height, width) == (OUT * rows, OUT * columns):
        y.view(n, rows, OUT, columns, OUT, channels).copy_(tiles)
    else:
        y.copy_(tiles.reshape(n, OUT * rows, OUT * columns, channels)[:, :height, :width])


def _put_overlapping(x: Tensor, patches: Tensor) -> None:
    """Writes to [n, h, w, c] the sums of the overlapping patches [36, tiles * c] that cover it."""
    rows, columns = _tiling(x)
    n, height, width, channels = x.shape
    patches = patches.view(IN, IN, n, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    # A patch covers its own tile and the first two lines of the next ones.
    total = x.new_zeros(n, OUT * (rows + 1), OUT * (columns + 1), channels)
    grid = total.view(n, rows + 1, OUT, columns + 1, OUT, channels)
    over = IN - OUT
    grid[:, :-1, :, :-1] += patches[:, :, :OUT, :, :OUT]
    grid[:, 1:, :over, :-1] += patches[:, :, OUT:, :, :OUT]
    grid[:, :-1, :, 1:, :over] += patches[:, :, :OUT, :, OUT:]
    grid[:, 1:, :over, 1:, :over] += patches[:, :, OUT:, :, OUT:]
    x.copy_(total[:, 1 : height + 1, 1 : width + 1])


class _Dense(torch.autograd.Function):
    """Maps of 1x1 to 2x2: every output is a linear layer on all of the map, whose weights are a part of the kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        flat = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        kernel = weight.permute(0, 2, 3, 1).contiguous()
        y, to = _new_output(x, len(weight))
        for row, column, part in _parts(kernel, height, width):
            torch.mm(flat, part.reshape(len(weight), -1).T, out=to[:, row, column])
        if bias is not None:
            to += bias
        ctx.save_for_backward(flat, kernel)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        flat, kernel = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        dx = torch.zeros_like(flat)
        dkernel = torch.zeros_like(kernel)
        dy = gradient.permute(0, 2, 3, 1).contiguous()
        parts = zip(_parts(kernel, height, width), _parts(dkernel, height, width), strict=True)
        for (row, column, part), (_, _, dpart) in parts:
            here = dy[:, row, column]
            dx.addmm_(here, part.reshape(len(kernel), -1))
            dpart += (here.T @ flat).view(dpart.shape)
        return (
            dx.view(n, height, width, channels).permute(0, 3, 1, 2),
            dkernel.permute(0, 3, 1, 2),
            dy.sum((0, 1, 2)) if ctx.has_bias else None,
        )


def _parts(kernel: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
    """The outputs (row, column) of a small map, each with the part of the kernel [out, 3, 3, c] that meets the map."""
    for row in range(height):
        for column in range(width):
            yield row, column, kernel[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]
