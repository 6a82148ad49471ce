"""What is minimised, and by what."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from train.recipes import Recipe
from zoo.googlenet import AUX_LOSS_WEIGHT, GoogLeNetOutputs


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with the recipe's momentum and weight decay.

    Fused: one pass over weights, gradients and momentum, with nothing allocated. For VGG16's many weights the passes
    one after the other took a third of a step on a CPU.
    """
    decay = recipe.weight_decay
    groups: Any = model.parameters()
    if decay and not recipe.decay_norms_and_biases:
        groups, decay = param_groups_weight_decay(model, decay), 0.0
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=decay,
        fused=True,
    )


def loss_sum(outputs: Tensor | GoogLeNetOutputs, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy summed over a batch; auxiliary heads' losses are added at their weight (section 2)."""
    if isinstance(outputs, tuple):
        main, *auxiliary = (F.cross_entropy(x, labels, label_smoothing=smoothing, reduction="sum") for x in outputs)
        return main + AUX_LOSS_WEIGHT * sum(auxiliary)
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction="sum")
