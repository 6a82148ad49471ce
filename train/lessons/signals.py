"""How signals travel through a network: the spread of its activations on the way forward, of gradients on the way back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from train.training.objective import loss_sum
from zoo.googlenet import GoogLeNetOutputs


@dataclass(frozen=True)
class Signal:
    """What one step of training sends through a layer with weights.

    Attributes:
        name: of the module.
        activation: standard deviation of its output, over images, channels and places.
        gradient: that of the loss's gradient at its output, for the sum over the images.
        update: size of the weights' gradient relative to the weights, as norms: a learning rate of 0.1 changes them by
            a tenth of this share.
    """

    name: str
    activation: float
    gradient: float
    update: float


@dataclass
class _Measured:
    activation: float = 0.0
    gradient: float = 0.0
    hooks: list[Any] = field(default_factory=list)


def signals(model: nn.Module, x: Tensor, labels: Tensor, smoothing: float = 0.0) -> list[Signal]:
    """Measure activations and gradients in one step of training, at each convolution and linear layer, in their order.

    The weights stay as they are; BatchNorm normalises with the batch, and its running statistics stay too.

    Args:
        model: a timm model.
        x: images as the model takes them, float [n, channels, height, width].
        labels: int64 [n].
        smoothing: label smoothing of the loss.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    measured: dict[str, _Measured] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found = measured[name] = _Measured(activation=output.detach().std().item())

            def note_gradient(gradient: Tensor) -> None:
                found.gradient = gradient.std().item()

            output.register_hook(note_gradient)

        return hook

    training, kept = model.training, {name: values.clone() for name, values in model.named_buffers()}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        outputs: Tensor | GoogLeNetOutputs = model.train()(x)
        weights = [layers[name].weight for name in measured]
        gradients = torch.autograd.grad(loss_sum(outputs, labels, smoothing) / len(x), weights, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for name, values in model.named_buffers():
            values.copy_(kept[name])
        model.train(training)
    found = []
    for (name, values), gradient, weight in zip(measured.items(), gradients, weights, strict=True):
        share = 0.0 if gradient is None else (gradient.norm() / weight.norm()).item()
        found.append(Signal(name, values.activation, values.gradient, share))
    return found
