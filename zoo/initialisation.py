"""Section 4's initialisation of a linear layer, for new classifiers too."""

from torch import nn

__all__ = ["init_linear"]


def init_linear(layer: nn.Module) -> None:
    """Draw a linear layer's weights from N(0, 0.01) and set its bias to 0; leave any other layer as it is."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, mean=0.0, std=0.01)
        nn.init.zeros_(layer.bias)
