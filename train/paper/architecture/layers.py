"""The layers of a network, read off its code: a trace says what runs in which order, on shapes without any values."""

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import timm
import torch
from timm.layers import BatchNormAct2d, SelectAdaptivePool2d
from timm.models.resnet import BasicBlock
from torch import fx, nn

from train.errors import UserError
from train.paper.architecture import words
from train.training.models import pretrained_cfg
from zoo.catalog import NETWORKS
from zoo.googlenet import Inception

# Of the input that the report shows the networks for, in pixels: the paper's.
SIDE = 64
# Drawn as one box in a whole network, and on their own beside it.
BLOCKS: tuple[type[nn.Module], ...] = (BasicBlock, Inception)
# Modules with parts that are one layer all the same.
WHOLE = (BatchNormAct2d, SelectAdaptivePool2d)
# What follows a convolution or a linear layer and is told together with it.
FOLLOWS = ("norm", "activation")


class ArchitectureError(UserError):
    """A network or an input size that cannot be shown."""


@dataclass(frozen=True)
class Layer:
    """A layer, or several that are told together: a convolution with its BatchNorm and ReLU.

    Attributes:
        name: of the module, such as "layer1.0"; of the function where there is no module.
        kind: "convolution", "linear", "pool", "norm", "activation", "dropout", "join", "block" or "other".
        parts: in words, such as ("3x3 convolution, 64", "BatchNorm", "ReLU").
        shape: of the output, without the batch.
        parameters: of all parts.
        inputs: the names of the layers before it; "" for the network's input.
    """

    name: str
    kind: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    inputs: tuple[str, ...]

    @property
    def text(self) -> str:
        """As in "3x3 convolution, 64, BatchNorm, ReLU"."""
        return ", ".join(self.parts)


@dataclass(frozen=True)
class Network:
    """A network and its layers, for an input of shape (channels, height, width)."""

    name: str
    input: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Those of all layers together."""
        return sum(layer.parameters for layer in self.layers)


@dataclass(frozen=True)
class Block:
    """A block of a network: branches from one input, which are joined, and what follows.

    Attributes:
        name: of its module, such as "layer2.0".
        text: such as "residual block, 128, stride 2".
        input: shape of its input.
        branches: the layers of each; a branch without layers is the input itself.
        join: adds or concatenates the branches.
        tail: the layers after it.
    """

    name: str
    text: str
    input: tuple[int, ...]
    branches: list[list[Layer]]
    join: Layer
    tail: list[Layer]


@cache
def network(name: str, side: int | None = None, in_chans: int = 3) -> Network:
    """Read the layers of a network in the order in which they run; convolutions with their norm and activation.

    Args:
        name: of one of the project's networks.
        side: of the square input, in pixels; None for the network's own.
        in_chans: channels of the input.

    Raises:
        ArchitectureError: there is no such network, or it does not take images of this size.
    """
    for what, value in (("input size", side), ("number of input channels", in_chans)):
        if value is not None and value < 1:
            raise ArchitectureError(f"{what} {value}: valid are numbers from 1")
    model = _build(name, in_chans)
    height, width = (side, side) if side else pretrained_cfg(model)["input_size"][1:]
    size = (in_chans, height, width)
    return Network(name, size, tuple(_merged(_trace(model, size, BLOCKS, name))))


@cache
def blocks(of: Network) -> tuple[Block, ...]:
    """Read a network's blocks that differ in their layers: the first of each kind.

    Blocks that differ in numbers alone, as GoogLeNet's nine Inception modules do, are of one kind.

    Raises:
        ArchitectureError: see `network`.
    """
    model = _build(of.name, of.input[0])
    shapes = {"": of.input} | {layer.name: layer.shape for layer in of.layers}
    found: dict[tuple[tuple[str, ...], ...], Block] = {}
    for layer in of.layers:
        if layer.kind == "block":
            entered = shapes[layer.inputs[0]]
            block = _block(layer, _trace(model.get_submodule(layer.name), entered, (), of.name), entered)
            found.setdefault(tuple(tuple(part.kind for part in branch) for branch in block.branches), block)
    return tuple(found.values())


def counterpart(name: str) -> str | None:
    """Return the vanilla form of an improved network or the other way round; None where there is none."""
    kind, _, family = name.partition("_")
    other = {"vanilla": f"improved_{family}", "improved": f"vanilla_{family}"}.get(kind)
    return other if other in NETWORKS else None


def aligned(vanilla: Network, improved: Network) -> list[tuple[Layer | None, Layer | None, bool]]:
    """Put two networks beside each other, layer by layer, and say where the second differs from the first."""
    before, after = ([(layer.parts, layer.shape) for layer in one.layers] for one in (vanilla, improved))
    rows: list[tuple[Layer | None, Layer | None, bool]] = []
    for what, start, stop, other_start, other_stop in SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        for i in range(max(stop - start, other_stop - other_start)):
            left = vanilla.layers[start + i] if start + i < stop else None
            right = improved.layers[other_start + i] if other_start + i < other_stop else None
            # The text of a layer may stay while what comes into it changes.
            resized = left is not None and right is not None and left.parameters != right.parameters
            rows.append((left, right, what != "equal" or resized))
    return rows


def _build(name: str, in_chans: int) -> nn.Module:
    if name not in NETWORKS:
        raise ArchitectureError(f"unknown network {name!r}: valid are {', '.join(NETWORKS)}")
    with torch.device("meta"):  # no memory, no values
        model: nn.Module = timm.create_model(name, in_chans=in_chans)
    return model.eval()


class _Tracer(fx.Tracer):
    def __init__(self, units: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.units = units

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  torch's signature
        return isinstance(m, self.units) or next(m.children(), None) is None


class _Shapes(fx.Interpreter):
    """Runs a traced module and keeps the shape of each node's output, without the batch."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.of: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.of[n] = tuple(result.shape[1:])
        return result


def _trace(model: nn.Module, size: tuple[int, ...], units: tuple[type[nn.Module], ...], name: str) -> list[Layer]:
    """Read the layers of a module, each on its own; those that change nothing are left out."""
    graph = _Tracer((*units, *WHOLE)).trace(model)
    traced = fx.GraphModule(model, graph)
    shapes = _Shapes(traced)
    try:
        shapes.run(torch.empty(1, *size, device="meta"))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise ArchitectureError(f"{name} does not take images of {'x'.join(map(str, size[1:]))}: {why}") from error
    found: list[Layer] = []
    # The layer whose output a node gives, by the node's name.
    source: dict[str, str] = {}
    for node in graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            source[node.name] = ""
            continue
        inputs = tuple(dict.fromkeys(source[before.name] for before in node.all_input_nodes))
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        entering = shapes.of[node.all_input_nodes[0]]
        kind, parts = words.of_module(module, entering) if module is not None else words.of_function(node)
        if kind == "nothing":
            source[node.name] = inputs[0]
            continue
        parameters = sum(p.numel() for p in module.parameters()) if module is not None else 0
        name_of = str(node.target) if module is not None else node.name
        source[node.name] = name_of
        found.append(Layer(name_of, kind, parts, shapes.of[node], parameters, inputs))
    return found


def _merged(layers: list[Layer]) -> list[Layer]:
    """Tell norms and activations together with the layer before them."""
    found: list[Layer] = []
    merged: dict[str, str] = {}
    for layer in layers:
        inputs = tuple(merged.get(name, name) for name in layer.inputs)
        last = found[-1] if found else None
        if layer.kind in FOLLOWS and last and inputs == (last.name,) and last.kind in ("convolution", "linear"):
            found[-1] = replace(last, parts=last.parts + layer.parts, parameters=last.parameters + layer.parameters)
            merged[layer.name] = last.name
        else:
            found.append(replace(layer, inputs=inputs))
    return found


def _block(whole: Layer, layers: list[Layer], size: tuple[int, ...]) -> Block:
    """Cut the layers of a block at the one that joins its branches."""
    # The Inception module's are told as in a whole network, those of the residual block one by one, as the paper does.
    merged = _merged(layers) if any(layer.parts == ("concatenate",) for layer in layers) else layers
    by_name = {layer.name: layer for layer in merged}
    at = next(i for i, layer in enumerate(merged) if layer.kind == "join")

    def branch(last: str) -> list[Layer]:
        return [*branch(by_name[last].inputs[0]), by_name[last]] if last else []

    return Block(
        whole.name, whole.text, size, [branch(name) for name in merged[at].inputs], merged[at], merged[at + 1 :]
    )
