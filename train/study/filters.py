"""The filters of a map's channels, as the graph has them: norms are folded into the weights."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

# A filter has a slice for each channel of its input. So many are kept, those with the largest weights.
KEPT = 6
# Operators that leave each channel its place, and their first input its meaning.
PASSING = frozenset(("Relu", "Clip", "BatchNormalization", "MaxPool", "AveragePool", "Identity", "LeakyRelu"))


@dataclass(frozen=True)
class Filter:
    """One filter of a convolution.

    Attributes:
        inputs: how many channels of its input it spans.
        shown: which of them are in `weights`, those with the largest weights first; colours in their own order.
        weights: int8 [shown, height, width], as shares of the largest of them: 127 is that.
    """

    inputs: int
    shown: tuple[int, ...]
    weights: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """Write it for the metadata."""
        return {
            "inputs": self.inputs,
            "shown": self.shown,
            "size": self.weights.shape[1:],
            "weights": base64.b64encode(self.weights.tobytes()).decode(),
        }


def filters(proto: onnx.ModelProto, tensor: str) -> list[Filter | None]:
    """Find the filter that makes each channel of a tensor, [batch, channels, height, width].

    Where a shortcut is added, it is that of the convolution. None where no single convolution makes the channel.
    """
    graph = _Producers(proto)
    made = graph.of(tensor)
    return [None if one is None else _filter(*one) for one in made]


class _Producers:
    """Which convolution makes each channel of each tensor of a graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._makers = {output: node for node in proto.graph.node for output in node.output}
        self._weights = {one.name: one for one in proto.graph.initializer}
        types = (*proto.graph.value_info, *proto.graph.output, *proto.graph.input)
        self._channels = {
            entry.name: entry.type.tensor_type.shape.dim[1].dim_value
            for entry in types
            if len(entry.type.tensor_type.shape.dim) == 4
        }

    def of(self, tensor: str) -> list[tuple[np.ndarray, int] | None]:
        """List weight [out, in, height, width] and row for each channel of a tensor."""
        node = self._makers.get(tensor)
        if node is not None and node.op_type == "Conv" and node.input[1] in self._weights:
            weight = numpy_helper.to_array(self._weights[node.input[1]])
            return [(weight, row) for row in range(len(weight))] if weight.ndim == 4 else self._unknown(tensor)
        if node is not None and node.op_type in PASSING:
            return self.of(node.input[0])
        if node is not None and node.op_type == "Concat":
            return [one for part in node.input for one in self.of(part)]
        if node is not None and node.op_type == "Add":
            return self._largest(node) or self._unknown(tensor)
        return self._unknown(tensor)

    def _largest(self, node: NodeProto) -> list[tuple[np.ndarray, int] | None]:
        """Of the convolutions whose outputs a node adds, take the one with the largest kernel."""
        parts = [self.of(part) for part in node.input if self._is_convolution(part)]
        return max(parts, key=lambda part: part[0][0].shape[2] if part[0] else 0, default=[])

    def _is_convolution(self, tensor: str) -> bool:
        node = self._makers.get(tensor)
        if node is not None and node.op_type == "BatchNormalization":
            return self._is_convolution(node.input[0])
        return node is not None and node.op_type == "Conv"

    def _unknown(self, tensor: str) -> list[tuple[np.ndarray, int] | None]:
        return [None] * self._channels.get(tensor, 0)


def _filter(weight: np.ndarray, row: int) -> Filter:
    slices = weight[row]
    count = len(slices)
    shown = range(count) if count <= 3 else np.argsort(-np.abs(slices).sum((1, 2)), kind="stable")[:KEPT].tolist()
    kept = slices[list(shown)]
    scale = max(float(np.abs(kept).max()), 1e-12)
    return Filter(count, tuple(shown), np.rint(kept * (127 / scale)).astype(np.int8))
