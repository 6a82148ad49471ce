"""From a trained network to the compact checkpoint that is published; `zoo.compact` tells how one is read.

VGG16 keeps nearly all of its parameters in two linear layers, and uses few of them. Its pooled grid has few distinct
cells at the network's input size (`train.speed.fold`), and what its 4,096 hidden units receive varies along few
directions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.speed import convolution
from train.speed.fold import DistinctCells, fold
from train.training.models import pretrained_cfg
from zoo.compact import to_blocks
from zoo.vgg import PooledVGG

# Networks from here on are kept in 8 bits, and all matrices of theirs from here on.
LARGE_NETWORK = 10_000_000
LARGE_MATRIX = 2**16
# Directions of a hidden layer's outputs that are kept. With 64 of 4,096 the logits of validation images differ by 1.4 %
# of their spread (improved, MNIST) and 0.6 % (vanilla, CIFAR-10), and 3 of 4,000 images get another class.
RANK = 64
BATCH = 250


def compact(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The state of a network in evaluation mode as it is published.

    Up to ten million parameters: matrices in half precision. Above: large matrices in blocks of 8 bits; VGG16's hidden
    linear layers as factors of low rank, the first one for the distinct cells of its grid alone. Vectors (norms,
    biases) are few, and stay as they are.

    Args:
        images: training images, uint8 [n, C, H, W], that show which directions matter; only VGG16 asks for them.

    Raises:
        ValueError: a weight is too large for the precision that it is to be kept in.
    """
    state = _low_rank(model, images) if isinstance(model, PooledVGG) else dict(model.state_dict())
    large = sum(parameter.numel() for parameter in model.parameters()) > LARGE_NETWORK
    tensors = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            if large and tensor.numel() >= LARGE_MATRIX:
                tensors[f"{name}.int8"], tensors[f"{name}.scale"] = to_blocks(tensor)
                continue
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise ValueError(f"{name} does not fit half precision: publish with --full-precision")
        tensors[name] = tensor.contiguous()
    return tensors


def _low_rank(model: PooledVGG, images: Tensor) -> dict[str, Tensor]:
    """A VGG16's state dict with its hidden linear layers as factors."""
    folded: Any = fold(model, pretrained_cfg(model)["input_size"])
    state = dict(model.state_dict())
    mlp = folded.pre_logits
    inputs = _inputs(folded, mlp.fc1, images)
    for name in ("fc1", "fc2"):
        layer = getattr(mlp, name)
        left, right, bias = principal(layer, inputs, RANK)
        with torch.no_grad():  # the second layer's directions are those of what the first one will give
            layer.weight.copy_(left @ right)
            layer.bias.copy_(bias)
            inputs = layer(inputs).relu_()
        key = f"pre_logits.{name}.weight"
        del state[key]
        if name == "fc1" and isinstance(mlp.pool, DistinctCells):
            # What is kept is the weight of one cell; the fold has summed over those that are the same.
            repeats = mlp.pool.repeats
            cells = right.view(len(right), -1, *repeats.shape) / repeats
            right = cells.flatten(1)
            state[f"{key}.cells"] = torch.tensor(mlp.pool.groups, dtype=torch.uint8)
        state[f"{key}.left"], state[f"{key}.right"] = left, right
        state[f"pre_logits.{name}.bias"] = bias
    return state


@torch.inference_mode()
def _inputs(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What a layer gets for all images: float32 [n, in]."""
    kept: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].float().clone()))
    preprocess = Preprocess(pretrained_cfg(model))
    try:
        with convolution.faster(model):
            for part in images.split(BATCH):
                model(preprocess(part))
    finally:
        hook.remove()
    return torch.cat(kept)


@torch.no_grad()
def principal(layer: nn.Linear, inputs: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A linear layer confined to the principal directions of its outputs.

    Of all layers of this rank it is the one whose outputs for `inputs` change least, in the mean square. Fewer inputs
    than `rank` have as many directions as there are inputs.

    Args:
        inputs: float32 [n, in].

    Returns:
        left [out, rank], right [rank, in] and bias [out].
    """
    outputs = layer(inputs)
    mean = outputs.mean(0)
    # Of 4,096 directions few are wanted: random sketches, refined six times, find them in a fifteenth of the time that
    # all eigenvectors take, and leave out 1.00003 times as much.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sketch = min(rank + 16, *outputs.shape)
        _, _, directions = torch.svd_lowrank(outputs - mean, q=sketch, niter=6)
    left = directions[:, :rank].contiguous()
    return left, left.T @ layer.weight, left @ (left.T @ (layer.bias - mean)) + mean
