"""Modules and functions of a network in words."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import BatchNormAct2d, SelectAdaptivePool2d
from timm.models.resnet import BasicBlock
from torch import fx, nn
from torch.nn import functional as F

from zoo.googlenet import Inception

# A kind and its parts in words: see `layers.Layer`.
Words = tuple[str, tuple[str, ...]]
# What a module that leaves its input as it is has.
NOTHING: Words = ("nothing", ())


def of_module(module: nn.Module, entering: tuple[int, ...]) -> Words:
    """Return the kind of a module and its parts in words; that of one that changes nothing is "nothing".

    Args:
        module: a layer or a block.
        entering: the shape of its input, without the batch.
    """
    for types, say in MODULES.items():
        if isinstance(module, types):
            return say(module, entering)
    return "other", (type(module).__name__,)


def of_function(node: fx.Node) -> Words:
    """Return likewise what a function is that a trace shows."""
    if node.target is F.dropout:
        return "dropout", (f"dropout {node.kwargs['p']:g}",)
    return FUNCTIONS.get(node.target, ("other", (node.name,)))


def _convolution(module: Any, _: tuple[int, ...]) -> Words:
    return "convolution", (_with_stride(f"{_sides(module)} convolution, {module.out_channels}", module),)


def _linear(module: Any, _: tuple[int, ...]) -> Words:
    return "linear", (f"linear, {module.out_features}",)


def _norm(module: Any, _: tuple[int, ...]) -> Words:
    act = getattr(module, "act", None)
    active = act is not None and not isinstance(act, nn.Identity)
    return "norm", ("BatchNorm", type(act).__name__) if active else ("BatchNorm",)


def _max_pool(module: Any, _: tuple[int, ...]) -> Words:
    return "pool", (_with_stride(f"{_sides(module)} max pool", module),)


def _adaptive_pool(module: Any, _: tuple[int, ...]) -> Words:
    how = "max" if isinstance(module, nn.AdaptiveMaxPool2d) else "average"
    return "pool", (f"{module.output_size}x{module.output_size} adaptive {how} pool",)


def _global_pool(_: Any, entering: tuple[int, ...]) -> Words:
    return NOTHING if entering[1:] == (1, 1) else ("pool", ("global average pool",))


def _dropout(module: Any, _: tuple[int, ...]) -> Words:
    return ("dropout", (f"dropout {module.p:g}",)) if module.p else NOTHING


def _residual(module: Any, _: tuple[int, ...]) -> Words:
    return "block", (_with_stride(f"residual block, {module.conv2.out_channels}", module),)


def _sides(module: Any) -> str:
    kernel = module.kernel_size
    return "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))


def _with_stride(text: str, module: Any) -> str:
    stride = module.stride[0] if isinstance(module.stride, tuple) else module.stride
    return text if stride == 1 else f"{text}, stride {stride}"


MODULES: dict[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[Any, tuple[int, ...]], Words]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    (BatchNormAct2d, nn.BatchNorm2d): _norm,
    nn.ReLU: lambda *_: ("activation", ("ReLU",)),
    nn.MaxPool2d: _max_pool,
    (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d): _adaptive_pool,
    SelectAdaptivePool2d: _global_pool,
    nn.Dropout: _dropout,
    (nn.Identity, nn.Flatten): lambda *_: NOTHING,
    BasicBlock: _residual,
    Inception: lambda *_: ("block", ("Inception module",)),
}

# By the function or the name of the method that a trace shows.
FUNCTIONS: dict[Callable[..., Any] | str, Words] = {
    operator.add: ("join", ("add",)),
    operator.iadd: ("join", ("add",)),
    torch.cat: ("join", ("concatenate",)),
    F.relu: ("activation", ("ReLU",)),
    torch.flatten: NOTHING,
    operator.getitem: NOTHING,
}
