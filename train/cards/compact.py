"""From a trained network to the compact checkpoint that is published, which `zoo.compact` reads.

VGG16 has nearly all of its parameters in two linear layers, and needs few of them: at the network's input size its
pooled grid has few distinct cells (`train.speed.fold`), and the inputs of its 4,096 hidden units vary along few
directions.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.speed import convolution
from train.speed.fold import DistinctCells, fold
from train.training.models import pretrained_cfg
from train.training.results.predict import fitting_batch
from zoo.catalog import NETWORKS
from zoo.compact import BLOCK, expand, to_blocks
from zoo.vgg import PooledVGG

# Parameters from which on a network of `zoo` is stored in 8 bits, and elements from which on a matrix of it is.
LARGE_NETWORK = 10_000_000
LARGE_MATRIX = 2**16
# Directions of a hidden layer's outputs that are kept. With 64 of 4,096 the logits of validation images change by 1.4 %
# of their standard deviation (improved, MNIST) and 0.6 % (vanilla, CIFAR-10), and 3 of 4,000 images get another class.
RANK = 64
# Images that are processed at a time.
BATCH = 250
# What `config.json` of a card with compact weights states as `model_type`, and of no other. timm does not read it.
# transformers refuses a type that it does not know; without it, it would take such weights for a damaged state dict,
# and go on with random ones.
MODEL_TYPE = "deep-image-zoo-compact"
# Names in `model_args`, where timm writes them, that transformers' wrapper passes itself: it ends with a TypeError if
# they are there. `config.json` has their values elsewhere.
PASSED_BY_THE_WRAPPER = ("num_classes",)


def compact(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the state dict of a network in its published form.

    Matrices are stored in half precision. Of `zoo`'s networks with more than ten million parameters, large matrices are
    stored in blocks of 8 bits, and VGG16's hidden linear layers as factors of low rank, the first one only for the
    distinct cells of its grid: only these networks can read that form (`zoo.pretrained`). Vectors (norms, biases) are
    few and stay as they are.

    Args:
        model: in evaluation mode.
        images: training images, uint8 [n, C, H, W], that show which directions matter; used only for VGG16.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    state = _low_rank(model, images) if isinstance(model, PooledVGG) else dict(model.state_dict())
    large = sum(parameter.numel() for parameter in model.parameters()) > LARGE_NETWORK
    in_blocks = large and pretrained_cfg(model)["architecture"] in NETWORKS
    tensors = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            if in_blocks and tensor.numel() >= LARGE_MATRIX:
                tensors[f"{name}.int8"], tensors[f"{name}.scale"] = to_blocks(tensor)
                continue
            tensors[name] = tensor.half().contiguous()
            if not tensors[name].isfinite().all():
                raise ValueError(f"{name} does not fit half precision: publish with --full-precision")
        else:
            tensors[name] = tensor.contiguous()
    return tensors


def form(file: Path) -> str:
    """Say in words how the matrices of a safetensors file are stored."""
    with safe_open(file, "pt") as weights:
        kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  not a dict
    matrices = "half precision" if "F16" in kinds.values() else "float32"
    if not any(name.endswith(".int8") for name in kinds):
        return matrices
    low_rank = any(".left" in name for name in kinds)
    factors = f", the hidden linear layers as factors of rank {RANK}" if low_rank else ""
    return f"large matrices in 8-bit blocks of {BLOCK} with a factor each, the others in {matrices}{factors}"


def for_other_readers(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a card's `config.json` such that transformers loads its weights if they are whole, and else refuses them.

    Args:
        config: as timm writes it.
        tensors: the weights, whole or compact.
    """
    changed = {name: value for name, value in config.items() if name != "model_type"}
    if expand(tensors).keys() != tensors.keys():
        return {"model_type": MODEL_TYPE, **changed}
    args = changed.get("model_args", {})
    return {**changed, "model_args": {name: args[name] for name in args if name not in PASSED_BY_THE_WRAPPER}}


def _low_rank(model: PooledVGG, images: Tensor) -> dict[str, Tensor]:
    """Return a VGG16's state dict with its hidden linear layers as factors."""
    folded: Any = fold(model, pretrained_cfg(model)["input_size"])
    state = dict(model.state_dict())
    mlp = folded.pre_logits
    inputs = _inputs(folded, mlp.fc1, images)
    for name in ("fc1", "fc2"):
        layer = getattr(mlp, name)
        left, right, bias = principal(layer, inputs, RANK)
        with torch.no_grad():  # the second layer's inputs come from the first one as it is stored
            layer.weight.copy_(left @ right)
            layer.bias.copy_(bias)
            inputs = layer(inputs).relu_()
        key = f"pre_logits.{name}.weight"
        del state[key]
        if name == "fc1" and isinstance(mlp.pool, DistinctCells):
            # The weight of a single cell is stored; the fold has summed the weights of equal cells.
            repeats = mlp.pool.repeats
            cells = right.view(len(right), -1, *repeats.shape) / repeats
            right = cells.flatten(1)
            state[f"{key}.cells"] = torch.tensor(mlp.pool.groups, dtype=torch.uint8)
        state[f"{key}.left"], state[f"{key}.right"] = left, right
        state[f"pre_logits.{name}.bias"] = bias
    return state


@torch.inference_mode()
def _inputs(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """Return a layer's inputs for all images: float32 [n, in]."""
    kept: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].float().clone()))
    preprocess = Preprocess(pretrained_cfg(model))
    try:
        with convolution.faster(model):
            batch = fitting_batch(preprocess.size, BATCH)
            for start in range(0, len(images), batch):
                model(preprocess(images[start : start + batch]))
    finally:
        hook.remove()
    return torch.cat(kept)


@torch.no_grad()
def principal(layer: nn.Linear, inputs: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project a linear layer onto the principal directions of its outputs.

    Of all layers of this rank, the result has the least mean squared difference in its outputs for `inputs`. With fewer
    inputs than `rank`, there are as many directions as inputs.

    Args:
        layer: the layer to approximate.
        inputs: float32 [n, in].
        rank: the number of directions to keep.

    Returns:
        left [out, rank], right [rank, in] and bias [out].
    """
    outputs = layer(inputs)
    mean = outputs.mean(0)
    # Only a few of 4,096 directions are needed. A randomised SVD with six iterations takes a fifteenth of the time of
    # an eigendecomposition, and its residual is 1.00003 times as large.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sketch = min(rank + 16, *outputs.shape)
        _, _, directions = torch.svd_lowrank(outputs - mean, q=sketch, niter=6)
    left = directions[:, :rank].contiguous()
    return left, left.T @ layer.weight, left @ (left.T @ (layer.bias - mean)) + mean
