"""Preprocessing from a dataset's own pixels to a network's input, in evaluation and in the exported graph."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Preprocess(nn.Module):
    """uint8 [n, channels, h, w] -> float32 [n, channels, *input_size[1:]], scaled to 0..1, resized and normalised.

    Bilinear, without antialiasing: the networks see images enlarged from 28x28 or 32x32 (section 5.1), or as they are.

    Args:
        pretrained_cfg: a timm model's; its `input_size`, `mean` and `std` are used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        channels, height, width = pretrained_cfg["input_size"]
        self.size = (height, width)
        for name in ("mean", "std"):
            values = torch.tensor(pretrained_cfg[name], dtype=torch.float32)
            if len(values) != channels:
                raise ValueError(f"{name} {tuple(pretrained_cfg[name])} does not fit {channels} channels")
            self.register_buffer(name, values.view(1, channels, 1, 1), persistent=False)

    def at(self, size: tuple[int, int]) -> "Preprocess":
        """Copy this for another height and width, in pixels."""
        other = copy.copy(self)
        other.size = size
        return other

    def forward(self, images: Tensor) -> Tensor:
        """Preprocess a batch."""
        # Normalising commutes with interpolation, and before it there are fewer pixels.
        x = (images.float() - 255 * self.mean) * (1 / (255 * self.std))
        return x if self.size == tuple(x.shape[-2:]) else self.resize(x)

    def resize(self, x: Tensor) -> Tensor:
        """Resize a batch that is normalised already."""
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)
