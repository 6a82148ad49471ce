"""What is minimised, and by what."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.training.distillation import SoftTargets
from train.training.recipes import Recipe
from zoo.googlenet import AUX_LOSS_WEIGHT, GoogLeNetOutputs


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with the recipe's momentum and weight decay.

    Fused: one pass over weights, gradients and momentum, with nothing allocated. For VGG16's many weights the passes
    one after the other took a third of a step on a CPU.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        scale = recipe.linear_lr_scale if isinstance(module, nn.Linear) else 1.0
        for parameter in module.parameters(recurse=False):
            decays = recipe.decay_norms_and_biases or parameter.ndim > 1
            groups.setdefault((recipe.weight_decay if decays else 0.0, scale), []).append(parameter)
    return torch.optim.SGD(
        [
            # timm's name for what a schedule multiplies a group's learning rate by.
            {"params": group, "weight_decay": decay, "lr_scale": scale, "lr": scale * recipe.learning_rate}
            for (decay, scale), group in groups.items()
        ],
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )


def loss_sum(
    outputs: Tensor | GoogLeNetOutputs, labels: Tensor, smoothing: float, soft_targets: SoftTargets | None = None
) -> Tensor:
    """Cross-entropy summed over a batch; auxiliary heads' losses are added at their weight (section 2).

    A teacher's soft targets take their share of every head's loss.
    """
    if isinstance(outputs, tuple):
        main, *auxiliary = (loss_sum(x, labels, smoothing, soft_targets) for x in outputs)
        return main + AUX_LOSS_WEIGHT * sum(auxiliary)
    loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction="sum")
    return loss if soft_targets is None else soft_targets.blend(loss, outputs)
