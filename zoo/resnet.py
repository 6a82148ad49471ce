"""ResNet18, vanilla and improved, on timm's ResNet.

Papers:
* `Deep Residual Learning for Image Recognition` - https://arxiv.org/abs/1512.03385
* `Deep Networks for Image Classification` (Skoularikis, 2021): the vanilla network is torchvision's `resnet18`; the
  improved one (section 4) has a stem of three 3x3 convolutions, dropout before the classifier, and its own
  initialisation.

Parameter names are torchvision's, so its checkpoints load as they are.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from zoo.catalog import PAPER
from zoo.pretrained import build_model, dataset_cfgs
from zoo.torchscript import ignore

__all__ = ["ImprovedResNet"]


class ImprovedResNet(ResNet):
    """timm's ResNet with the initialisation of section 4, "the same process as the improved VGG model"."""

    @ignore
    def init_weights(self, zero_init_last: bool = False) -> None:
        """Initialise: He-normal (fan out) convolutions, an N(0, 0.01) classifier with bias 0, BatchNorm at 1 and 0."""
        super().init_weights(zero_init_last=zero_init_last)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, mean=0.0, std=0.01)
            nn.init.zeros_(self.fc.bias)


def _create_resnet18(model_cls: type[ResNet], variant: str, pretrained: bool, **kwargs: Any) -> ResNet:
    # As in torchvision and the paper, every BatchNorm starts at 1; timm's default starts the last of each block at 0.
    model_args = {"block": BasicBlock, "layers": (2, 2, 2, 2), "zero_init_last": False}
    return build_model(model_cls, variant, pretrained, **dict(model_args, **kwargs))


default_cfgs = {
    # 32x32 is our choice, as for vanilla_vgg16: the paper does not say what its vanilla networks saw.
    **dataset_cfgs(
        "vanilla_resnet18",
        32,
        first_conv="conv1",
        classifier="fc",
        paper_name="Deep Residual Learning for Image Recognition",
        paper_ids="arXiv:1512.03385",
    ),
    **dataset_cfgs(
        "improved_resnet18",
        64,
        first_conv="conv1.0",
        classifier="fc",
        paper_name=PAPER,
    ),
}


@register_model
def vanilla_resnet18(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Torchvision's ResNet18: 11,181,642 parameters with 10 classes."""
    return _create_resnet18(ResNet, "vanilla_resnet18", pretrained, **kwargs)


@register_model
def improved_resnet18(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Section 4's ResNet18: deep stem, dropout 0.1 before the classifier; 11,200,874 parameters with 10 classes."""
    model_args = {"stem_type": "deep", "stem_width": 32, "drop_rate": 0.1}
    return _create_resnet18(ImprovedResNet, "improved_resnet18", pretrained, **dict(model_args, **kwargs))
