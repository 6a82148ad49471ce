"""VGG16, vanilla and improved, on timm's VGG.

Papers:
* `Very Deep Convolutional Networks for Large-Scale Image Recognition` - https://arxiv.org/abs/1409.1556
* `Deep Networks for Image Classification` (Skoularikis, 2021): the vanilla network is torchvision's `vgg16`; the
  improved one (section 4) has BatchNorm after every convolution and a 5x5 adaptive max pool in the place of the 7x7
  adaptive average pool.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import register_model
from timm.models.vgg import VGG, cfgs
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.catalog import PAPER
from zoo.initialisation import init_linear
from zoo.pretrained import build_model, dataset_cfgs
from zoo.torchscript import is_scripting

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "PooledMlp", "PooledVGG", "pool_slices", "windows"]

# torchvision's names for what timm calls the pre-logits and the head.
TORCHVISION_NAMES = {
    "classifier.0.": "pre_logits.fc1.",
    "classifier.3.": "pre_logits.fc2.",
    "classifier.6.": "head.fc.",
}


def windows(length: int, size: int) -> list[tuple[int, int]]:
    """Compute start and end of PyTorch's adaptive pooling windows, from `length` cells to `size`; they may overlap."""
    # The end is rounded up by an addition, not by negation: ONNX divides integers towards zero.
    return [(i * length // size, ((i + 1) * length + size - 1) // size) for i in range(size)]


def _exporting() -> bool:
    return (
        torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    )  # the latter covers the exporter by way of TorchScript


def pool_slices(x: Tensor, size: int, reduce: Callable[..., Tensor], cells: Sequence[int] | None = None) -> Tensor:
    """Pool adaptively by slices, for exporters: ONNX has no operator for maps that do not divide evenly.

    Args:
        x: [batch, channels, height, width].
        size: cells along each side of the result.
        reduce: reduces a window to one cell, called with `dim` and `keepdim`.
        cells: which of the `size` cells along each side to compute; all by default.

    Returns:
        [batch, channels, size, size], or as many cells along each side as `cells` has.
    """
    for dim in (2, 3):
        chosen = windows(x.shape[dim], size)
        if cells is not None:
            chosen = [chosen[i] for i in cells]
        parts = [x.narrow(dim, start, end - start) for start, end in chosen]
        x = torch.cat([reduce(part, dim=dim, keepdim=True) for part in parts], dim)
    return x


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """PyTorch's adaptive average pool in a form that can be exported."""

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        """Pool [batch, channels, height, width] to [batch, channels, size, size]."""
        if not is_scripting():  # noqa: SIM102  joined with `and`, TorchScript would compile both
            if _exporting():
                return pool_slices(x, self.output_size, torch.mean)
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """PyTorch's adaptive max pool in a form that can be exported.

    The gradient of PyTorch's operator goes to one element where several tie; `amax` would spread it over all of them.
    """

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        """Pool [batch, channels, height, width] to [batch, channels, size, size]."""
        if not is_scripting():  # noqa: SIM102  as above
            if _exporting():
                return pool_slices(x, self.output_size, torch.amax)
        return F.adaptive_max_pool2d(x, self.output_size)


class PooledMlp(nn.Module):
    """VGG's two hidden linear layers on a map pooled to a fixed size: [batch, channels, h, w] -> [batch, 4096, 1, 1].

    It replaces the block of timm's VGG, which slides over maps larger than 7x7; torchvision pools maps of every size.
    The linear layers are `nn.Linear` (timm's are convolutions), so that they get section 4's initialisation of linear
    layers. The output has the shape that timm's classifier head takes.
    """

    def __init__(self, in_chs: int, pool: nn.Module, pool_size: int, hidden: int, drop_rate: float, **dd: Any) -> None:
        super().__init__()
        self.pool = pool
        self.fc1 = nn.Linear(in_chs * pool_size**2, hidden, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden, hidden, **dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers to a map: [batch, channels, height, width] -> [batch, hidden, 1, 1]."""
        x = torch.flatten(self.pool(x), 1)  # N x (channels * pool_size^2)
        x = self.drop(self.act1(self.fc1(x)))  # N x 4096
        x = self.act2(self.fc2(x))  # N x 4096
        return x[:, :, None, None]


class PooledVGG(VGG):
    """timm's VGG with torchvision's pool to a fixed size before its linear layers. Input at least 32x32 pixels.

    The initialisation of section 4 is torchvision's and timm's too: He-normal (fan out) convolutions, N(0, 0.01) linear
    layers, zero biases, BatchNorm at 1 and 0.

    Args:
        cfg: timm's list of layers.
        pool: "avg7" (vanilla) or "max5" (improved).
        drop_rate: dropout after both hidden linear layers.
        device: of the parameters.
        dtype: of the parameters.
        kwargs: further arguments of timm's VGG.
    """

    def __init__(
        self,
        cfg: list[int | str],
        pool: str = "avg7",
        drop_rate: float = 0.5,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        pools: dict[str, tuple[nn.Module, int]] = {
            "avg7": (AdaptiveAvgPool2d(7), 7),
            "max5": (AdaptiveMaxPool2d(5), 5),
        }
        if pool not in pools:
            raise ValueError(f"Unknown pool {pool!r}. Valid: {', '.join(map(repr, pools))}.")
        dd = {"device": device, "dtype": dtype}
        # timm's MLP is replaced below; one unit wide, it takes no time or memory to build.
        super().__init__(cfg, drop_rate=drop_rate, mlp_ratio=1 / 4096, **kwargs, **dd)
        # Not `head_hidden_size`: some pools before the classifier double that one (`global_pool="catavgmax"`).
        mlp = PooledMlp(self.num_features, *pools[pool], self.head.in_features, drop_rate, **dd)
        self.pre_logits = mlp  # type: ignore[assignment]
        self._initialize_weights()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, initialised as the first one was.

        Args:
            num_classes: classes of the new one; 0 for none.
            global_pool: timm's type of the pool before the classifier; None keeps it.
        """
        super().reset_classifier(num_classes, global_pool)
        init_linear(self.head.fc)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], _model: nn.Module) -> dict[str, Tensor]:
    """Give a torchvision checkpoint our parameter names; leave our own checkpoints as they are."""

    def renamed(name: str) -> str:
        for theirs, ours in TORCHVISION_NAMES.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    return {renamed(name): value for name, value in state_dict.items()}


def _create_vgg16(variant: str, pretrained: bool, **kwargs: Any) -> VGG:
    # As for timm's VGGs: six feature maps, the first at stride 1.
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3, 4, 5))
    return build_model(
        PooledVGG,
        variant,
        pretrained,
        model_cfg=cfgs["vgg16"],
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        pretrained_filter_fn=checkpoint_filter_fn,
        draws_slowly=True,
        **kwargs,
    )


default_cfgs = {
    # The paper does not give the input size of its vanilla networks. All three run at 32x32 here, CIFAR-10's own size:
    # MNIST's 28x28 is too small for the five pools of VGG16.
    **dataset_cfgs(
        "vanilla_vgg16",
        32,
        first_conv="features.0",
        classifier="head.fc",
        paper_name="Very Deep Convolutional Networks for Large-Scale Image Recognition",
        paper_ids="arXiv:1409.1556",
    ),
    **dataset_cfgs(
        "improved_vgg16",
        64,
        first_conv="features.0",
        classifier="head.fc",
        paper_name=PAPER,
    ),
}


@register_model
def vanilla_vgg16(pretrained: bool = False, **kwargs: Any) -> VGG:
    """Torchvision's VGG16: 134,301,514 parameters with 10 classes."""
    return _create_vgg16("vanilla_vgg16", pretrained, **kwargs)


@register_model
def improved_vgg16(pretrained: bool = False, **kwargs: Any) -> VGG:
    """Section 4's VGG16: BatchNorm, 5x5 adaptive max pool; 83,978,314 parameters with 10 classes."""
    model_args = {"norm_layer": nn.BatchNorm2d, "pool": "max5"}
    return _create_vgg16("improved_vgg16", pretrained, **dict(model_args, **kwargs))
