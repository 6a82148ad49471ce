"""A linear classifier on frozen features, fitted before fine-tuning begins (LP-FT, Kumar et al. 2022, arXiv:2202.10054).

A new classifier at random values sends large gradients through weights that were good already. One that is fitted first
does not, and it is the least that fine-tuning has to reach.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.data.loading import Split
from train.data.preprocess import Preprocess
from train.training.models import pretrained_cfg

BATCH = 100


@torch.inference_mode()
def features(model: nn.Module, split: Split, device: torch.device) -> Tensor:
    """What a model's classifier sees of each image, in evaluation mode: float32 [n, width] on the CPU."""
    preprocess = Preprocess(pretrained_cfg(model)).to(device)
    seen: list[Tensor] = []
    hook = classifier(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(split), BATCH):
            model(preprocess(split.images[start : start + BATCH].to(device)))
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(seen)


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer of a timm model."""
    layer = model.get_classifier()  # type: ignore[operator]
    assert isinstance(layer, nn.Linear)
    return layer


def solve(x: Tensor, labels: Tensor, classes: int, label_smoothing: float, penalty: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty.

    Args:
        x: float32 [n, width], the features.
        penalty: of the squared norm of the weights of features scaled to unit variance, summed over images.

    Returns:
        Weights float32 [classes, width] and biases float32 [classes], for the features as they are.
    """
    x = x.float()
    mean = x.mean(0)
    # One scale for all of them: where a feature hardly ever differs from nought, dividing by its own deviation would
    # make noise of it.
    scale = (x - mean).pow(2).mean().sqrt().clamp_min(1e-12)
    x = (x - mean) / scale
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(x @ weight.T + bias, labels, label_smoothing=label_smoothing, reduction="mean")
        total = fit + penalty * weight.pow(2).sum() / len(x)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    weight, bias = weight.detach(), bias.detach()
    return (weight / scale).float(), (bias - weight @ (mean / scale)).float()
