"""The loss and the optimiser."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.training.distillation import SoftTargets
from train.training.recipes import Recipe
from zoo.googlenet import AUX_LOSS_WEIGHT, GoogLeNetOutputs


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Make SGD with the recipe's momentum and weight decay.

    It is fused: one pass over weights, gradients and momentum, without allocations. For VGG16's many weights, separate
    passes took a third of a step on a CPU.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        scale = recipe.linear_lr_scale if isinstance(module, nn.Linear) else 1.0
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:  # frozen
                continue
            decays = recipe.decay_norms_and_biases or parameter.ndim > 1
            groups.setdefault((recipe.weight_decay if decays else 0.0, scale), []).append(parameter)
    return torch.optim.SGD(
        [
            # `lr_scale` is timm's name for a group's factor of the scheduled learning rate.
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
    """Sum the cross-entropy over a batch, plus the auxiliary heads' losses with their weight (section 2).

    A teacher's soft targets get their share of every head's loss.

    Args:
        outputs: logits, float [b, classes], of one head or of GoogLeNet's three.
        labels: int64 [b].
        smoothing: see `Recipe.label_smoothing`.
        soft_targets: of a teacher, for the same images.
    """
    if isinstance(outputs, tuple):
        main, *auxiliary = (loss_sum(x, labels, smoothing, soft_targets) for x in outputs)
        return main + AUX_LOSS_WEIGHT * sum(auxiliary)
    loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction="sum")
    return loss if soft_targets is None else soft_targets.blend(loss, outputs)
