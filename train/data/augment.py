"""Augmentation of whole batches on the device, every image with parameters of its own.

All random numbers of an epoch are drawn at once, on the CPU, from (seed, epoch): row i belongs to image i. So an image
is treated the same however the batches are cut and however many processes share them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.preprocess import Preprocess

_ROTATION, _SHEAR, _SHIFT_X, _SHIFT_Y, _SCALE, _BRIGHTNESS, _CONTRAST, _SATURATION, _CUTOUT_X, _CUTOUT_Y = range(10)


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each image draws its own parameters, uniformly.

    Attributes:
        flip: "random" mirrors each image with probability 1/2 each epoch, "alternating" draws once and mirrors every
            other epoch, so that two epochs show each image both ways.
        rotation: degrees to either side.
        shear: degrees to either side, horizontally.
        shift: fraction of the side, to either side, on both axes.
        scale: smallest and largest factor.
        brightness, contrast, saturation: a factor from 1 - x to 1 + x.
        cutout: side of a square set to the dataset's mean colour, as a fraction of the image's side.
    """

    flip: Literal["none", "random", "alternating"] = "none"
    rotation: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0


_COLUMNS = 10
# ITU-R 601-2, as torchvision and Pillow turn colour into grey
_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch.

    Attributes:
        order: int64 [n], the permutation in which the images come.
        uniform: float32 [n, 10], in 0..1, a row for each image.
        mirrored: bool [n].
    """

    order: Tensor
    uniform: Tensor
    mirrored: Tensor

    def to(self, device: torch.device) -> "Draws":
        return Draws(self.order.to(device), self.uniform.to(device), self.mirrored.to(device))


def draw(n: int, augmentation: Augmentation, seed: int, epoch: int) -> Draws:
    """Draw for `n` images; `epoch` counts from 0. The same arguments give the same numbers on every machine."""
    generator = _generator(seed, 1, epoch)
    order = torch.randperm(n, generator=generator)
    uniform = torch.rand(n, _COLUMNS, generator=generator)
    if augmentation.flip == "alternating":
        first = torch.rand(n, generator=_generator(seed, 0, 0)) < 0.5
        mirrored = first if epoch % 2 == 0 else ~first
    elif augmentation.flip == "random":
        mirrored = torch.rand(n, generator=generator) < 0.5
    else:
        mirrored = torch.zeros(n, dtype=torch.bool)
    return Draws(order, uniform, mirrored)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A small tensor on a device, brought there once: a GPU is waited for each time, and a CUDA graph cannot wait."""
    return torch.tensor(values, device=device)


def _generator(*key: int) -> torch.Generator:
    # SeedSequence keeps neighbouring keys far apart; seeds like seed + epoch would give run 1 the epochs of run 0.
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def augment(
    images: Tensor,
    uniform: Tensor,
    mirrored: Tensor,
    augmentation: Augmentation,
    preprocess: Preprocess,
) -> Tensor:
    """Augment and normalise a batch.

    The result is what torchvision's `resize`, `hflip`, `affine` (bilinear, black fill) and normalisation give one image
    at a time, but for interpolating once and not twice. Brightness, contrast and saturation come first, on the
    dataset's own pixels, in this order, each followed by torchvision's clamp.

    Args:
        images: uint8 [b, channels, h, w].
        uniform: float32 [b, 10], rows of `Draws.uniform`.
        mirrored: bool [b].

    Returns:
        float32 [b, channels, *preprocess.size].
    """
    x = _jitter(images.float() / 255, uniform, augmentation) / preprocess.std
    black = preprocess.mean / preprocess.std  # what is subtracted last: 0 is black until then
    height, width = preprocess.size
    theta = _inverse_affine(uniform, mirrored, augmentation)
    grid = F.affine_grid(theta, [len(x), 1, height, width], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if shows_outside(augmentation):
        # How much of each output pixel lies inside the resized image. Sampling with zeros as padding instead would
        # darken a rim as wide as half a pixel of the small original, also where nothing moves.
        side = _constant((width / 2, height / 2), grid.device)
        inside = ((1 - grid.abs()) * side + 0.5).clamp_(0, 1)
        x.mul_((inside[..., 0] * inside[..., 1])[:, None])
    x.sub_(black)
    if augmentation.cutout:
        x.mul_(_cutout(uniform, augmentation.cutout, height, width))
    return x


def shows_outside(augmentation: Augmentation) -> bool:
    """Whether any part of the augmentation can bring the outside of the image into view."""
    return bool(augmentation.rotation or augmentation.shear or augmentation.shift) or augmentation.scale != (1.0, 1.0)


def _spread(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _inverse_affine(uniform: Tensor, mirrored: Tensor, augmentation: Augmentation) -> Tensor:
    """The map from output to input coordinates, both -1..1, float32 [b, 2, 3].

    The inverse of torchvision's affine matrix T R S Z (translation, rotation, shear along x, zoom), then the mirror.
    """

    def symmetric(column: int, limit: float) -> Tensor:
        return _spread(uniform[:, column], -limit, limit)

    angle = torch.deg2rad(symmetric(_ROTATION, augmentation.rotation))
    shear = torch.tan(torch.deg2rad(symmetric(_SHEAR, augmentation.shear)))
    scale = _spread(uniform[:, _SCALE], *augmentation.scale)
    # A shift is a fraction of the side, and the side is 2 long in these coordinates.
    shift_x, shift_y = 2 * symmetric(_SHIFT_X, augmentation.shift), 2 * symmetric(_SHIFT_Y, augmentation.shift)
    sin, cos = torch.sin(angle), torch.cos(angle)
    a, b = (cos - sin * shear) / scale, (sin + cos * shear) / scale
    c, d = -sin / scale, cos / scale
    sign = 1 - 2 * mirrored.to(a.dtype)
    row_x = torch.stack([a, b, -(a * shift_x + b * shift_y)], dim=1) * sign[:, None]
    row_y = torch.stack([c, d, -(c * shift_x + d * shift_y)], dim=1)
    return torch.stack([row_x, row_y], dim=1)


def _jitter(x: Tensor, uniform: Tensor, augmentation: Augmentation) -> Tensor:
    def factor(column: int, strength: float) -> Tensor:
        return _spread(uniform[:, column], 1 - strength, 1 + strength).view(-1, 1, 1, 1)

    if augmentation.brightness:
        x = (x * factor(_BRIGHTNESS, augmentation.brightness)).clamp_(0, 1)
    if augmentation.contrast:
        x = torch.lerp(_grey(x).mean((1, 2, 3), keepdim=True), x, factor(_CONTRAST, augmentation.contrast)).clamp_(0, 1)
    if augmentation.saturation and x.shape[1] == 3:
        x = torch.lerp(_grey(x), x, factor(_SATURATION, augmentation.saturation)).clamp_(0, 1)
    return x


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * _constant(_LUMA, x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _cutout(uniform: Tensor, side: float, height: int, width: int) -> Tensor:
    """0 within a square whose centre lies anywhere in the image, 1 elsewhere: float32 [b, 1, h, w]."""

    def outside(column: int, n: int) -> Tensor:
        centres = (torch.arange(n, device=uniform.device) + 0.5) / n
        return (centres - uniform[:, column, None]).abs() > side / 2

    return (outside(_CUTOUT_Y, height)[:, :, None] | outside(_CUTOUT_X, width)[:, None, :])[:, None].float()
