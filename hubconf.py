"""The models for `torch.hub.load(CHECKOUT_OR_REPOSITORY, NAME, pretrained=True)`."""

from collections.abc import Callable

import timm
from torch import nn

import zoo
from zoo.catalog import NETWORKS

dependencies = ["torch", "torchvision", "timm", "safetensors"]
__version__ = zoo.__version__


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """Make `timm.create_model` of one network; `tag="mnist"` chooses the weights for MNIST."""

    def create(*, tag: str = "", **kwargs: object) -> nn.Module:
        return timm.create_model(f"{name}.{tag}" if tag else name, **kwargs)

    create.__doc__ = f"{NETWORKS[name].description}. Arguments are those of `timm.create_model`, and tag=mnist|cifar10."
    return create


globals().update({name: _entrypoint(name) for name in NETWORKS})
