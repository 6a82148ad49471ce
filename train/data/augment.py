"""Augmentation of whole batches on the device, each image with its own random parameters.

All random numbers of an epoch are drawn at once, on the CPU, from (seed, epoch); row i belongs to image i. So an image
is augmented in the same way however the epoch is cut into batches and however many processes share them.

To add an augmentation, add a field to `Augmentation`, a function that applies it, and a row to `EFFECTS`. Its random
numbers come from a generator of their own, so existing seeds keep drawing what they drew before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.preprocess import Preprocess


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each image's parameters are drawn, uniformly.

    Attributes:
        flip: "random" mirrors each image with probability 1/2 in each epoch; "alternating" draws once and mirrors in
            every other epoch, so that any two epochs in succession show each image both ways.
        rotation: largest angle to either side, in degrees.
        shear: largest horizontal shear to either side, in degrees.
        shift: largest shift to either side on both axes, as a fraction of the side.
        scale: smallest and largest factor.
        brightness: the factor is from 1 - x to 1 + x; likewise for contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        cutout: side of a square that is set to the dataset's mean colour, as a fraction of the image's side.
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


@dataclass(frozen=True)
class Effect:
    """How a field of `Augmentation` changes the pixels of a batch.

    Attributes:
        on: "pixels" for the dataset's own pixels, 0 to 1; "input" for the network's input, resized and normalised.
        draws: the names of the random numbers that each image needs.
        apply: called with the batch, float32 [b, channels, h, w], which it may change in place, the field's value, and
            for each name in `draws` float32 [b], uniform in 0..1. Returns the changed batch.
    """

    on: Literal["pixels", "input"]
    draws: tuple[str, ...]
    apply: Callable[..., Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch.

    Attributes:
        order: int64 [n], the permutation in which the images are trained on.
        uniform: float32 [n, columns], uniform in 0..1, a row for each image and a column for each of `columns()`.
        mirrored: bool [n].
    """

    order: Tensor
    uniform: Tensor
    mirrored: Tensor

    def to(self, device: torch.device) -> "Draws":
        """Copy the numbers to a device."""
        return Draws(self.order.to(device), self.uniform.to(device), self.mirrored.to(device))


# Drawn as one tensor, in this order. It is fixed: another order or length would change what every seed draws.
_DRAWN_TOGETHER = (
    "rotation", "shear", "shift_x", "shift_y", "scale", "brightness", "contrast", "saturation", "cutout_x", "cutout_y",
)  # fmt: skip


def columns() -> tuple[str, ...]:
    """List the names of the random numbers in `Draws.uniform`."""
    names = {name: None for effect in EFFECTS.values() for name in effect.draws}
    return (*_DRAWN_TOGETHER, *(name for name in names if name not in _DRAWN_TOGETHER))


def draw(n: int, augmentation: Augmentation, seed: int, epoch: int) -> Draws:
    """Draw the numbers for `n` images; the same arguments give the same numbers on every machine.

    Args:
        n: how many images there are.
        augmentation: its `flip` decides how images are mirrored; the other numbers do not depend on it.
        seed: the run's.
        epoch: counted from 0.
    """
    generator = _generator(seed, 1, epoch)
    order = torch.randperm(n, generator=generator)
    uniform = torch.rand(n, len(_DRAWN_TOGETHER), generator=generator)
    if augmentation.flip == "alternating":
        first = torch.rand(n, generator=_generator(seed, 0, 0)) < 0.5
        mirrored = first if epoch % 2 == 0 else ~first
    elif augmentation.flip == "random":
        mirrored = torch.rand(n, generator=generator) < 0.5
    else:
        mirrored = torch.zeros(n, dtype=torch.bool)
    # By name, so that they do not depend on each other, nor on the order of the table.
    more = [
        torch.rand(n, 1, generator=_generator(seed, 2, epoch, int.from_bytes(name.encode())))
        for name in columns()[len(_DRAWN_TOGETHER) :]
    ]
    return Draws(order, torch.cat([uniform, *more], dim=1), mirrored)


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

    The result is that of torchvision's `resize`, `hflip`, `affine` (bilinear, black fill) and normalisation for one
    image at a time, except that it interpolates once and not twice. Brightness, contrast and saturation come first, on
    the dataset's own pixels, in this order, each followed by torchvision's clamp.

    Args:
        images: uint8 [b, channels, h, w].
        uniform: float32 [b, columns], rows of `Draws.uniform`.
        mirrored: bool [b].
        augmentation: the ranges of the parameters.
        preprocess: the size and the statistics of the network's input.

    Returns:
        float32 [b, channels, *preprocess.size].
    """
    drawn = dict(zip(columns(), uniform.unbind(1), strict=True))
    x = _apply("pixels", images.float() / 255, drawn, augmentation) / preprocess.std
    black = preprocess.mean / preprocess.std  # subtracted after sampling: until then, 0 is black
    height, width = preprocess.size
    theta = _inverse_affine(drawn, mirrored, augmentation)
    grid = F.affine_grid(theta, [len(x), 1, height, width], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if shows_outside(augmentation):
        # How much of each output pixel lies inside the resized image. Sampling with zeros as padding instead would
        # darken a rim as wide as half a pixel of the small original, also where nothing moves.
        side = _constant((width / 2, height / 2), grid.device)
        inside = ((1 - grid.abs()) * side + 0.5).clamp_(0, 1)
        x.mul_((inside[..., 0] * inside[..., 1])[:, None])
    x.sub_(black)
    return _apply("input", x, drawn, augmentation)


def _apply(on: str, x: Tensor, drawn: dict[str, Tensor], augmentation: Augmentation) -> Tensor:
    """Apply the effects whose field is set, in the order of the table."""
    for field, effect in EFFECTS.items():
        value = getattr(augmentation, field)
        if effect.on == on and value:
            x = effect.apply(x, value, *(drawn[name] for name in effect.draws))
    return x


def shows_outside(augmentation: Augmentation) -> bool:
    """Tell whether an augmentation can bring the outside of the image into view."""
    return bool(augmentation.rotation or augmentation.shear or augmentation.shift) or augmentation.scale != (1.0, 1.0)


def _inverse_affine(drawn: dict[str, Tensor], mirrored: Tensor, augmentation: Augmentation) -> Tensor:
    """Compute the map from output to input coordinates, both -1..1: float32 [b, 2, 3].

    It is the inverse of torchvision's affine matrix T R S Z (translation, rotation, shear along x, zoom), followed by
    the mirror.
    """

    def symmetric(name: str, limit: float) -> Tensor:
        return _spread(drawn[name], -limit, limit)

    angle = torch.deg2rad(symmetric("rotation", augmentation.rotation))
    shear = torch.tan(torch.deg2rad(symmetric("shear", augmentation.shear)))
    scale = _spread(drawn["scale"], *augmentation.scale)
    # A shift is a fraction of the side, and the side is 2 long in these coordinates.
    shift_x, shift_y = 2 * symmetric("shift_x", augmentation.shift), 2 * symmetric("shift_y", augmentation.shift)
    sin, cos = torch.sin(angle), torch.cos(angle)
    a, b = (cos - sin * shear) / scale, (sin + cos * shear) / scale
    c, d = -sin / scale, cos / scale
    sign = 1 - 2 * mirrored.to(a.dtype)
    row_x = torch.stack([a, b, -(a * shift_x + b * shift_y)], dim=1) * sign[:, None]
    row_y = torch.stack([c, d, -(c * shift_x + d * shift_y)], dim=1)
    return torch.stack([row_x, row_y], dim=1)


def _spread(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _factor(u: Tensor, strength: float) -> Tensor:
    return _spread(u, 1 - strength, 1 + strength).view(-1, 1, 1, 1)


def _brightness(x: Tensor, strength: float, u: Tensor) -> Tensor:
    return (x * _factor(u, strength)).clamp_(0, 1)


def _contrast(x: Tensor, strength: float, u: Tensor) -> Tensor:
    return torch.lerp(_grey(x).mean((1, 2, 3), keepdim=True), x, _factor(u, strength)).clamp_(0, 1)


def _saturation(x: Tensor, strength: float, u: Tensor) -> Tensor:
    return torch.lerp(_grey(x), x, _factor(u, strength)).clamp_(0, 1) if x.shape[1] == 3 else x


def _grey(x: Tensor) -> Tensor:
    """Convert to grey by ITU-R 601-2, as torchvision and Pillow do: [b, 1, h, w]."""
    if x.shape[1] == 1:
        return x
    return (x * _constant((0.2989, 0.587, 0.114), x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copy a small tensor to a device once: each copy waits for the GPU, and a CUDA graph cannot contain one."""
    return torch.tensor(values, device=device)


def _cutout(x: Tensor, side: float, u_x: Tensor, u_y: Tensor) -> Tensor:
    """Set a square to 0, the mean colour. Its centre lies anywhere in the image."""
    height, width = x.shape[-2:]

    def outside(u: Tensor, n: int) -> Tensor:
        centres = (torch.arange(n, device=u.device) + 0.5) / n
        return (centres - u[:, None]).abs() > side / 2

    return x.mul_((outside(u_y, height)[:, :, None] | outside(u_x, width)[:, None, :])[:, None].float())


# By field of `Augmentation`, in the order in which they are applied. Flip, rotation, shear, shift and scale are one
# affine map (`_inverse_affine`) between those on "pixels" and those on "input".
EFFECTS: dict[str, Effect] = {
    "brightness": Effect("pixels", ("brightness",), _brightness),
    "contrast": Effect("pixels", ("contrast",), _contrast),
    "saturation": Effect("pixels", ("saturation",), _saturation),
    "cutout": Effect("input", ("cutout_x", "cutout_y"), _cutout),
}
