"""Faster convolutions on small maps: the same sums in fewer and larger matrix products.

ONNX Runtime computes a convolution as one matrix product for each image. On the last maps of these networks, 4x4 to
1x1, such a product has few rows, and its time is that of loading all the weights from memory, again for every image.
One product for the whole batch loads them once.

On one core with AMX, in batches of 32, the int8 files give 1.3 times (`improved_resnet18.cifar10`) to 2.8 times
(`vanilla_resnet18.cifar10`) as many images/s as without this module and graph.py's resize, and the fp32 file of
`improved_resnet18.cifar10` 1.4 times as many (benchmarks/onnx_files.py; the table is in docs/performance.md).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

# A convolution becomes a product if it has at most this many output positions (at 4x4 it is no faster) and at least
# this many weights (with fewer, the steps around the product take longer than it saves).
MOST_POSITIONS = 4
LEAST_WEIGHTS = 2**16


def crop_kernels(proto: onnx.ModelProto) -> None:
    """Cut off the rows and columns of kernels that only ever meet padding, in place.

    On a 1x1 map only the centre of a 3x3 kernel is left. The sums stay the same.
    """
    graph = _Graph(proto)
    for conv in graph.convolutions():
        used = [side.taps() for side in conv.sides]
        if all(len(taps) == side.kernel for side, taps in zip(conv.sides, used, strict=True)):
            continue
        weight = graph.values(conv.node.input[1])
        cropped = weight[:, :, used[0][0] : used[0][-1] + 1, used[1][0] : used[1][-1] + 1]
        before = [side.pad - taps[0] for side, taps in zip(conv.sides, used, strict=True)]
        after = [
            (side.positions - 1) * side.stride + taps[-1] + 1 - side.pad - side.length
            for side, taps in zip(conv.sides, used, strict=True)
        ]
        if min(before + after) < 0:  # no window reaches some pixels, and a convolution cannot leave these out
            continue
        conv.node.input[1] = graph.add(f"{conv.node.output[0]}/kernel", cropped)
        kept = [entry for entry in conv.node.attribute if entry.name not in ("kernel_shape", "pads")]
        del conv.node.attribute[:]
        conv.node.attribute.extend(kept)
        conv.node.attribute.append(helper.make_attribute("kernel_shape", cropped.shape[2:]))
        conv.node.attribute.append(helper.make_attribute("pads", before + after))
    graph.drop_unused()


def as_products(proto: onnx.ModelProto) -> None:
    """Replace each convolution on a small map by one matrix product, in place.

    The product has one row for each output position of each image. In int8 graphs (QDQ) the results stay the same, to
    the bit.
    """
    graph = _Graph(proto)
    small = {
        conv.node.output[0]: conv
        for conv in graph.convolutions()
        if conv.positions <= MOST_POSITIONS and conv.weights >= LEAST_WEIGHTS
    }
    nodes: list[NodeProto] = []
    fused: set[str] = set()  # outputs of nodes that became part of a product
    for node in proto.graph.node:
        if node.output[0] in small:
            nodes += _product(graph, small[node.output[0]], fused)
        elif node.output[0] not in fused:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    graph.drop_unused()


@dataclass
class _Side:
    """A convolution along the height or along the width.

    Attributes:
        length: of the input map, in pixels.
        kernel: its taps.
        pad: padding before the first pixel.
        positions: of the output.
    """

    length: int
    kernel: int
    stride: int
    pad: int
    positions: int

    def pixels(self) -> npt.NDArray[np.int64]:
        """The pixel under each tap at each position: int64 [positions, kernel], -1 for padding."""
        seen = np.add.outer(np.arange(self.positions) * self.stride, np.arange(self.kernel)) - self.pad
        return np.where(seen < self.length, np.maximum(seen, -1), -1)

    def taps(self) -> list[int]:
        """The taps that meet a pixel at any position."""
        return np.flatnonzero((self.pixels() >= 0).any(axis=0)).tolist()


@dataclass
class _Convolution:
    """A convolution node, its two sides, and how many weights it has."""

    node: NodeProto
    sides: tuple[_Side, _Side]
    weights: int

    @property
    def positions(self) -> int:
        return self.sides[0].positions * self.sides[1].positions

    def pixels(self) -> list[int]:
        """The pixel under each tap at each position, both row by row; for padding, one past the last pixel."""
        height, width = self.sides
        rows, columns = height.pixels()[:, None, :, None], width.pixels()[:, None, :]
        inside = (rows >= 0) & (columns >= 0)
        return np.where(inside, rows * width.length + columns, height.length * width.length).ravel().tolist()


class _Graph:
    """Look-ups in a graph as it was when this object was made, and additions to it.

    Attributes:
        channels_last: names of tensors [n, H, W, C], by the name of the tensor [n, C, H, W] with the same values.
            [n, H, W, C] is the order of a product's rows.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self._initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._producers = {output: node for node in proto.graph.node for output in node.output}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        self._shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        self.channels_last: dict[str, str] = {}

    def convolutions(self) -> Iterator[_Convolution]:
        """The convolutions with stored weights over maps of known size, in one group and without dilation."""
        for node in self._graph.node:
            if node.op_type != "Conv":
                continue
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            if (
                attributes.get("group", 1) != 1
                or {*attributes.get("dilations", ()), 1} != {1}
                or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
            ):
                continue
            weight = self._initializers.get(self.stored(node.input[1])[0])
            before, after = (self._shapes.get(name, [])[2:] for name in (node.input[0], node.output[0]))
            if weight is None or not (len(before) == len(after) == 2 and all(before) and all(after)):
                continue
            strides, pads = attributes.get("strides", (1, 1)), attributes.get("pads", (0, 0))
            height, width = (
                _Side(before[axis], weight.dims[2 + axis], strides[axis], pads[axis], after[axis]) for axis in range(2)
            )
            yield _Convolution(node, (height, width), math.prod(weight.dims))

    def stored(self, name: str) -> tuple[str, NodeProto | None]:
        """The tensor `name` or the one that it is dequantised from, and the node that dequantises it."""
        producer = self._producers.get(name)
        if producer is None or producer.op_type != "DequantizeLinear":
            return name, None
        return producer.input[0], producer

    def values(self, name: str) -> npt.NDArray[np.generic]:
        """The values of an initialiser."""
        return numpy_helper.to_array(self._initializers[name])

    def only_consumer(self, name: str, *kinds: str) -> NodeProto | None:
        """The only node that uses a tensor, if it is of these kinds."""
        nodes = self._consumers.get(name, [])
        is_output = any(end.name == name for end in self._graph.output)
        return nodes[0] if len(nodes) == 1 and nodes[0].op_type in kinds and not is_output else None

    def add(self, name: str, values: npt.ArrayLike) -> str:
        """Add an initialiser and return its name."""
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def drop_unused(self) -> None:
        """Remove initialisers, and nodes that dequantise them, which no node uses any more."""
        used = {name for node in self._graph.node for name in node.input} | {end.name for end in self._graph.output}
        nodes = [node for node in self._graph.node if node.op_type != "DequantizeLinear" or node.output[0] in used]
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        for entries, left in ((self._graph.node, nodes), (self._graph.initializer, kept)):
            del entries[:]
            entries.extend(left)


def _product(graph: _Graph, conv: _Convolution, fused: set[str]) -> list[NodeProto]:
    """The nodes that replace a convolution, and the ReLU and the quantisation after it.

    The outputs of replaced nodes are added to `fused`.
    """
    node, name = conv.node, conv.node.output[0]
    height, width = conv.sides
    nodes: list[NodeProto] = []

    def apply(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{name}/{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], f"{name}/{kind}_{len(nodes)}", **attributes))
        return output

    def constant(what: str, values: npt.ArrayLike) -> str:
        return graph.add(f"{name}/{what}", values)

    image, dequantize = graph.stored(node.input[0])
    if image not in graph.channels_last:
        graph.channels_last[image] = apply("Transpose", image, perm=[0, 2, 3, 1])
    rows = graph.channels_last[image]

    weight, dequantize_weight = graph.stored(node.input[1])
    kernels = graph.values(weight)  # [out, in, kernel height, kernel width]
    channels, area, pixels = kernels.shape[1], height.length * width.length, conv.pixels()
    if pixels != list(range(area)):
        rows = apply("Reshape", rows, constant("flat", [-1, area, channels]))
        if area in pixels:
            zero = graph.values(dequantize.input[2]) if dequantize else np.float32(0)
            rows = apply("Pad", rows, constant("pads", [0, 1]), constant("zero", zero), constant("axes", [1]))
        rows = apply("Gather", rows, constant("pixels", pixels), axis=1)
    rows = apply("Reshape", rows, constant("rows", [-1, len(pixels) // conv.positions * channels]))

    matrix = constant("matrix", kernels.transpose(0, 2, 3, 1).reshape(len(kernels), -1))
    if dequantize:
        rows = apply("DequantizeLinear", rows, *dequantize.input[1:])
    if dequantize_weight:
        matrix = apply("DequantizeLinear", matrix, *dequantize_weight.input[1:], axis=0)
    rows, result = apply("Gemm", rows, matrix, *node.input[2:], transB=1), node.output[0]
    # Directly after the product: ONNX Runtime fuses the three.
    while following := graph.only_consumer(result, "Relu", "QuantizeLinear"):
        fused.add(following.output[0])
        rows, result = apply(following.op_type, rows, *following.input[1:]), following.output[0]
        if following.op_type == "QuantizeLinear":
            break
    maps = apply("Reshape", rows, constant("maps", [-1, height.positions, width.positions, len(kernels)]))
    graph.channels_last[result] = maps
    apply("Transpose", maps, output=result, perm=[0, 3, 1, 2])
    return nodes
