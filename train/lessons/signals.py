"""How signals travel through a network: the spread of activations on the way forward, of gradients on the way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.data.loading import Split
from train.data.preprocess import Preprocess
from train.paper import section4
from train.training.models import pretrained_cfg
from train.training.objective import loss_sum
from train.training.results.measure import parameters
from zoo.catalog import DEFAULT_DATASET
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


@dataclass(frozen=True)
class Start:
    """A network with random weights, before its first step of training.

    Attributes:
        parameters: their number.
        signals: of each layer with weights, in their order.
    """

    parameters: int
    signals: list[Signal]

    @property
    def gradient_ratio(self) -> float:
        """The spread of the gradients at the first layer, relative to that at the last one."""
        return self.signals[0].gradient / self.signals[-1].gradient


@dataclass
class _Measured:
    activation: float
    gradient: float = 0.0


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

            output.register_hook(note_gradient)  # type: ignore[no-untyped-call]

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
    for (name, seen), gradient, weight in zip(measured.items(), gradients, weights, strict=True):
        share = 0.0 if gradient is None else (gradient.norm() / weight.norm()).item()
        found.append(Signal(name, seen.activation, seen.gradient, share))
    return found


def of_changes(family: str, split: Split, side: int, dataset: str = DEFAULT_DATASET, seed: int = 0) -> dict[str, Start]:
    """Measure the start of a family's vanilla network, of each of section 4's changes alone, and of the improved one.

    Args:
        family: "vgg16", "resnet18" or "googlenet".
        split: images and labels of one batch.
        side: of the input, in pixels.
        dataset: of the images.
        seed: of each network's random weights.

    Raises:
        ModelError: see `section4.build`.
    """
    every = section4.names(family)
    chosen = {"vanilla": (), **{f"vanilla + {name}": (name,) for name in every}, "improved": tuple(every)}
    if len(every) == 1:  # the change alone is the improved network
        chosen.pop(f"vanilla + {every[0]}")
    found = {}
    for title, changes in chosen.items():
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = section4.build(family, *changes, dataset=dataset, side=side)
            x = Preprocess(pretrained_cfg(model))(split.images)
            found[title] = Start(parameters(model), signals(model, x, split.labels))
    return found
