"""Convolutions on a CPU: 3x3 by Winograd's algorithm, and 1x1 and small maps as plain matrix products.

The vanilla VGG16 trains with 150 images/s on one core, in bf16, instead of 105 with PyTorch's convolutions, which
multiply directly; docs/recipe.md has the numbers of the other networks.

- Winograd's F(4x4, 3x3) (Lavin and Gray, 2015, arXiv 1509.09308) computes 16 outputs from 36 products for each pair of
  channels instead of 144. Its transforms are products with small constant matrices.
- Only the kernel's centre touches a map of 1x1, and at most four of its nine weights a map of 2x2. PyTorch pads and
  computes all nine.
- For a kernel of 1x1, and where a stride leaves a small map, one matrix product of the whole batch takes a fraction of
  the time of PyTorch's gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Outputs along one side of a tile, and the inputs that they depend on.
OUT, IN = 4, 6
# Other types are left to PyTorch's own convolutions.
TYPES = (torch.float32, torch.bfloat16)
# Input times output channels: with fewer, the transforms cost more than they save.
FEWEST_PRODUCTS = 64 * 128
# Height and width of the largest map that counts as small.
LARGEST_SMALL = 2
# The largest map for Winograd in bf16 on processors that multiply matrices in tiles (Intel's AMX): products are so
# cheap there that the transforms pay off only on maps too small for PyTorch's own convolutions. With a stride, maps up
# to this size count as small there.
LARGEST_WITH_TILES = 4
# Bytes of a channel's tiles in one chunk: few enough to stay in the processor's cache, and enough to be worth loading
# the kernel for.
TILE_BYTES = 512


# The polynomials are evaluated here and at infinity. These reciprocal pairs halve the rounding errors of the usual
# 1, -1, 2 and -2.
POINTS = (0.0, 5 / 8, -5 / 8, 8 / 5, -8 / 5)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Build the paper's B^T, G and A^T by Toom and Cook's construction, each for a flattened square."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    infinity = torch.eye(IN, dtype=torch.float64)
    powers = torch.linalg.vander(points, N=IN)
    output = torch.cat([powers[:, :OUT], infinity[-1:, -OUT:]]).T
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(IN - 1)]
    factors = torch.stack([(point - rest).prod() for point, rest in zip(points, others, strict=True)])
    kernel = torch.cat([powers[:, :3] / factors[:, None], infinity[-1:, -3:]])
    rows = [torch.from_numpy(polyfromroots(rest.numpy())) for rest in (*others, points)]
    inputs = torch.stack([F.pad(row, (0, IN - len(row))) for row in rows])
    first, second, third = (torch.kron(matrix, matrix).float() for matrix in (inputs, kernel, output))
    return first, second, third


_INPUT, _KERNEL, _OUTPUT = _transforms()


class Conv2d(nn.Conv2d):
    """An `nn.Conv2d` of 1x1, or of 3x3 with padding 1, with faster algorithms where there are any.

    Only the forward and backward passes differ from the parent's. In float32 the results agree to the sixth digit. In
    bf16 under autocast, plain products are as exact as the parent's, to 0.3 % in the root mean square; Winograd's
    transforms make that 1.5 %. In other types and on other devices the results are the parent's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [n, in_channels, h, w]."""
        x = autocast(x)
        y = self.faster(x)
        return super().forward(x) if y is None else y

    def faster(self, x: Tensor) -> Tensor | None:
        """Convolve by a faster algorithm; None where the parent's is the fastest."""
        y: Tensor | None = None
        if x.device.type == "cpu" and x.dtype in TYPES and self.weight.dtype == torch.float32 and len(x):
            largest, tiles = max(positions(x.shape, self.stride)), has_tiles(x.dtype)
            outputs, inputs = self.weight.shape[:2]
            many = inputs * outputs >= FEWEST_PRODUCTS and min(inputs, outputs) >= 32
            if self.stride != (1, 1):
                if largest <= (LARGEST_WITH_TILES if tiles else LARGEST_SMALL):
                    y = _Product.apply(x, self.weight, self.bias, self.stride)
            elif self.kernel_size == (1, 1):
                y = _Product.apply(x, self.weight, self.bias, self.stride)
            elif largest <= LARGEST_SMALL:
                y = _Dense.apply(x, self.weight, self.bias)
            elif many and min(x.shape[2:]) > 2 and not (tiles and largest > LARGEST_WITH_TILES):
                y = _Winograd.apply(x, self.weight, self.bias)
        return y


def autocast(x: Tensor) -> Tensor:
    """Convert to the type that a convolution has under the CPU's autocast, where that is on."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


@cache
def has_tiles(dtype: torch.dtype) -> bool:
    """Tell whether the processor multiplies matrices of this type in tiles; False where torch is too old to tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return dtype == torch.bfloat16 and bool(capabilities.get("amx_bf16"))


def use_faster(model: nn.Module) -> None:
    """Make a network's 1x1 and 3x3 convolutions faster, see `Conv2d`. `use_own` undoes it.

    The modules only change their class, so that state and hooks stay the same.
    """
    _change_class(model, nn.Conv2d, Conv2d)


def use_own(model: nn.Module) -> None:
    """Undo `use_faster`."""
    _change_class(model, Conv2d, nn.Conv2d)


@contextmanager
def faster(model: nn.Module) -> Iterator[None]:
    """Apply `use_faster` during the block. Convolutions that were faster before stay so."""
    changed = _change_class(model, nn.Conv2d, Conv2d)
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Conv2d


def _change_class(model: nn.Module, before: type[nn.Conv2d], after: type[nn.Conv2d]) -> list[nn.Module]:
    changed: list[nn.Module] = [module for module in model.modules() if type(module) is before and fits(module)]
    for module in changed:
        module.__class__ = after
    return changed


def fits(conv: nn.Conv2d) -> bool:
    """Tell whether `Conv2d` can replace a convolution."""
    centred = (conv.kernel_size, conv.padding) in (((1, 1), (0, 0)), ((3, 3), (1, 1)))
    return centred and conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"


def positions(shape: torch.Size, stride: tuple[int, ...]) -> tuple[int, int]:
    """Compute height and width of the output for an input of shape [n, c, h, w]."""
    height, width = (-(-length // step) for length, step in zip(shape[2:], stride, strict=True))
    return height, width


class _Winograd(torch.autograd.Function):
    """Maps of any size, in chunks of images.

    The backward pass transforms the images again. That takes less time than loading the transformed ones, 2.25 times
    the size, from memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = len(weight)
        kernel = _KERNEL.to(x.dtype) @ weight.permute(2, 3, 0, 1).reshape(9, -1).to(x.dtype)
        kernel = kernel.view(IN * IN, *weight.shape[:2])
        to_outputs = _OUTPUT.to(x.dtype)
        images = x.permute(0, 2, 3, 1).contiguous()
        y, to = _new_output(x, out)
        for chunk in _chunks(images):
            products = torch.bmm(_transformed(images[chunk]), kernel.transpose(1, 2))
            _put_tiles(to[chunk], to_outputs @ products.view(IN * IN, -1))
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
        dkernel = torch.zeros(kernel.shape)
        to_products, to_patches = _OUTPUT.T.to(dy.dtype), _INPUT.T.to(dy.dtype)
        for chunk in _chunks(images):
            dproducts = (to_products @ _tiles(dy[chunk])).view(IN * IN, -1, out)
            _add_products(dkernel, dproducts.transpose(1, 2), _transformed(images[chunk]))
            if dx is not None:
                _put_overlapping(dx[chunk], to_patches @ torch.bmm(dproducts, kernel).view(IN * IN, -1))
        dweight = (_KERNEL.T @ dkernel.view(IN * IN, -1)).view(3, 3, out, channels).permute(2, 3, 0, 1)
        return (
            None if dx is None else dx.permute(0, 3, 1, 2),
            dweight.contiguous(memory_format=torch.channels_last),
            dy.sum((0, 1, 2)) if ctx.has_bias else None,
        )


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, float32 or bf16 [k, m, n], to a float32 total."""
    if a.dtype == total.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)


def _new_output(x: Tensor, out: int, stride: tuple[int, ...] = (1, 1)) -> tuple[Tensor, Tensor]:
    """Allocate a result [n, out, h, w] in channels_last; return it, and its memory as [n, h, w, out].

    The first is no view: autograd would not let an in-place ReLU change a view.
    """
    n, (height, width) = len(x), positions(x.shape, stride)
    y = torch.empty((n, out, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    return y, y.permute(0, 2, 3, 1)


def _chunks(images: Tensor) -> list[slice]:
    """Cut a batch [n, h, w, c] into chunks of about `TILE_BYTES` for each channel."""
    rows, columns = _tiling(images)
    step = max(1, TILE_BYTES // (images.element_size() * rows * columns))
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _tiling(images: Tensor) -> tuple[int, int]:
    """Count the tiles that cover [n, h, w, c] in height and width."""
    return -(-images.shape[1] // OUT), -(-images.shape[2] // OUT)


def _transformed(images: Tensor) -> Tensor:
    """Transform the overlapping patches of 6x6 of [n, h, w, c]: [36, tiles, c]."""
    rows, columns = _tiling(images)
    n, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, 1, OUT * columns + 1 - width, 1, OUT * rows + 1 - height))
    image, row, column, channel = padded.stride()
    patches = padded.as_strided(
        (IN, IN, n, rows, columns, channels), (row, column, image, OUT * row, OUT * column, channel)
    )
    return (_INPUT.to(images.dtype) @ patches.reshape(IN * IN, -1)).view(IN * IN, -1, channels)


def _tiles(y: Tensor) -> Tensor:
    """Return the tiles of 4x4 of [n, h, w, c], zero beyond its edge: [16, tiles * c]."""
    rows, columns = _tiling(y)
    n, height, width, channels = y.shape
    if (height, width) != (OUT * rows, OUT * columns):
        y = F.pad(y, (0, 0, 0, OUT * columns - width, 0, OUT * rows - height))
    return y.view(n, rows, OUT, columns, OUT, channels).permute(2, 4, 0, 1, 3, 5).reshape(OUT * OUT, -1)


def _put_tiles(y: Tensor, tiles: Tensor) -> None:
    """Write tiles [16, tiles * c] to [n, h, w, c], without what is beyond its edge."""
    rows, columns = _tiling(y)
    n, height, width, channels = y.shape
    tiles = tiles.view(OUT, OUT, n, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    if (height, width) == (OUT * rows, OUT * columns):
        y.view(n, rows, OUT, columns, OUT, channels).copy_(tiles)
    else:
        y.copy_(tiles.reshape(n, OUT * rows, OUT * columns, channels)[:, :height, :width])


def _put_overlapping(x: Tensor, patches: Tensor) -> None:
    """Write to [n, h, w, c] the sums of the overlapping patches [36, tiles * c] that cover it."""
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
    """Maps of 1x1 to 2x2: each output is a linear layer on the whole map, whose weights are a part of the kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        flat = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        kernel = weight.permute(0, 2, 3, 1).to(x.dtype).contiguous()
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
        dkernel = torch.zeros(kernel.shape)
        dy = gradient.permute(0, 2, 3, 1).contiguous()
        parts = zip(_parts(kernel, height, width), _parts(dkernel, height, width), strict=True)
        for (row, column, part), (_, _, dpart) in parts:
            here = dy[:, row, column]
            dx.addmm_(here, part.reshape(len(kernel), -1))
            dpart.add_((here.T @ flat).view(dpart.shape))
        return (
            dx.view(n, height, width, channels).permute(0, 3, 1, 2),
            dkernel.permute(0, 3, 1, 2),
            dy.sum((0, 1, 2)) if ctx.has_bias else None,
        )


def _parts(kernel: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield a small map's outputs (row, column), each with the part of the kernel [out, 3, 3, c] that touches it."""
    for row in range(height):
        for column in range(width):
            yield row, column, kernel[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]


class _Product(torch.autograd.Function):
    """One product for the whole batch: each row holds all inputs of one output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        y, to = _new_output(x, len(weight), stride)
        rows = _windows(x, weight.shape[-1], stride)
        kernel = weight.permute(0, 2, 3, 1).to(x.dtype).reshape(len(weight), -1)
        torch.mm(rows, kernel.T, out=to.view(-1, len(weight)))
        if bias is not None:
            to += bias
        ctx.save_for_backward(rows, kernel)
        ctx.shapes, ctx.stride, ctx.has_bias = (x.shape, weight.shape), stride, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        rows, kernel = ctx.saved_tensors
        shape, (out, channels, *size) = ctx.shapes
        dy = gradient.permute(0, 2, 3, 1).reshape(-1, out)
        dx = _put_windows(dy @ kernel, shape, size[0], ctx.stride) if ctx.needs_input_grad[0] else None
        dweight = (dy.T @ rows).float().view(out, *size, channels).permute(0, 3, 1, 2)
        return dx, dweight, dy.sum(0) if ctx.has_bias else None, None


def _windows(x: Tensor, size: int, stride: tuple[int, int]) -> Tensor:
    """Gather the inputs in [n, c, h, w] of a square kernel at each position: [n * positions, size * size * c]."""
    n, channels = x.shape[:2]
    padded = x.permute(0, 2, 3, 1).contiguous()
    if size > 1:
        padded = F.pad(padded, (0, 0, *4 * [size // 2]))
    image, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (n, *positions(x.shape, stride), size, size, channels),
        (image, stride[0] * row, stride[1] * column, row, column, channel),
    )
    return windows.reshape(-1, size * size * channels)


def _put_windows(rows: Tensor, shape: torch.Size, size: int, stride: tuple[int, int]) -> Tensor:
    """Sum such windows where they came from: [n, c, h, w], the transpose of `_windows`."""
    n, channels, height, width = shape
    down, right = positions(shape, stride)
    if size == 1 and (down, right) == (height, width):
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)
    windows = rows.view(n, down, right, size, size, channels)
    margin = size // 2
    # In float32: in bf16 each of the sums would be rounded.
    total = torch.zeros(n, height + 2 * margin, width + 2 * margin, channels)
    for row, column in product(range(size), repeat=2):
        to = total[:, row :: stride[0], column :: stride[1]]
        to[:, :down, :right] += windows[:, :, :, row, column]
    inside = total[:, margin : margin + height, margin : margin + width]
    return inside.to(rows.dtype).permute(0, 3, 1, 2)
