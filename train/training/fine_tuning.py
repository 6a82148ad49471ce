"""How fine-tuning starts: a classifier fitted to frozen features, and norms that keep the statistics they came with.

A new classifier with random weights sends large gradients through weights that are good already. One that is fitted
first does not, and its accuracy is what fine-tuning has to exceed (LP-FT, Kumar et al. 2022, arXiv:2202.10054).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.data.loading import Split
from train.data.preprocess import Preprocess
from train.training.models import ModelError, pretrained_cfg
from train.training.results.predict import fitting_batch

# Weight of the L2 penalty, in images. Smaller ones give about the same accuracy at once, but a classifier that fits the
# training images too well leaves the layers below little to learn: fine-tuned for 6 epochs, 20 classes with 20 images
# each ended at 58 % with a penalty of 3 and at 62.5 % with 100.
PENALTY = 100.0
STEPS = 100


def fit_classifier(
    model: nn.Module, train: Split, label_smoothing: float, device: torch.device, batch_size: int | None = None
) -> None:
    """Replace the classifier's weights by those of a logistic regression on the model's features of `train`.

    A model whose classifier is not one linear layer is left as it is.

    Args:
        model: of timm's.
        train: the images to fit it to.
        label_smoothing: as in `Recipe`.
        device: to compute the features on.
        batch_size: images at a time; None for as many as `predict.fitting_batch` gives.
    """
    layer = classifier(model)
    if layer is None:
        return
    x = features(model, train, device, batch_size)
    weight, bias = logistic_regression(x, train.labels.cpu(), layer.out_features, label_smoothing)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)


@torch.no_grad()
def features(model: nn.Module, split: Split, device: torch.device, batch_size: int | None = None) -> Tensor:
    """Compute the classifier's input for each image, in evaluation mode: float32 [n, width] on the CPU."""
    layer = classifier(model)
    assert layer is not None
    preprocess = Preprocess(pretrained_cfg(model)).to(device)
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].float().cpu()))
    training = model.training
    model.to(device).eval()
    batch = batch_size or fitting_batch(preprocess.size)
    try:
        for start in range(0, len(split), batch):
            model(preprocess(split.images[start : start + batch].to(device)))
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(inputs)


def logistic_regression(x: Tensor, labels: Tensor, classes: int, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression with an L2 penalty.

    Args:
        x: float32 [n, width], the features.
        labels: int64 [n].
        classes: how many there are.
        label_smoothing: as in `Recipe`.

    Returns:
        Weights float32 [classes, width] and biases float32 [classes].
    """
    mean = x.mean(0)
    # One scale for all features: dividing a nearly constant one by its own deviation would amplify noise.
    scale = (x - mean).square().mean().sqrt().clamp_min(1e-12)
    x = (x - mean) / scale
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(x @ weight.T + bias, labels, label_smoothing=label_smoothing)
        loss = fit + PENALTY / len(x) * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    weights, biases = weight.detach(), bias.detach()
    return weights / scale, biases - weights @ (mean / scale)


def keep_statistics(model: nn.Module) -> None:
    """Normalise with BatchNorm's running statistics and leave them unchanged, until the next `model.train()`.

    Few images in small batches give noisy statistics, and the fitted classifier was fitted to the running ones.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def freeze(model: nn.Module) -> None:
    """Leave nothing but the classifier to train.

    Raises:
        ModelError: the model has no classifier of its own.
    """
    trained = {id(parameter) for parameter in _last_layer(model).parameters()}
    if not trained:
        raise ModelError("--freeze: this model has no classifier to train")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def classifier(model: nn.Module) -> nn.Linear | None:
    """Return a timm model's last layer, None where it is not linear."""
    layer = _last_layer(model)
    return layer if isinstance(layer, nn.Linear) else None


def _last_layer(model: nn.Module) -> nn.Module:
    layer: nn.Module = model.get_classifier()  # type: ignore[operator]
    return layer
