"""Convolutions for processors that multiply in tiles: the same results, and nothing else changes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from train.onnx_export import runtime
from train.onnx_export.tiles import lower_zero_points

OPSET = [helper.make_opsetid("", 20)]


def quantized(weight: np.ndarray, zero: int = 0, name: str = "w_quantized") -> onnx.ModelProto:
    """uint8 pixels through an int8 convolution, as a QDQ graph."""
    stem = name.removesuffix("_quantized")
    channels = len(weight)
    made = {
        "scale": np.float32(0.05),
        "zero": np.uint8(0),
        "many": np.float32(3),
        "half": np.uint8(128),
        name: weight,
        f"{stem}_scale": np.linspace(0.01, 0.02, channels, dtype=np.float32),
        f"{stem}_zero_point": np.full(channels, zero, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["float"]),
        helper.make_node("DequantizeLinear", [name, f"{stem}_scale", f"{stem}_zero_point"], ["weight"], axis=0),
        helper.make_node("Conv", ["float", "weight"], ["sum"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["sum", "many", "half"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", weight.shape[1], 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n", channels, 8, 8])],
        [numpy_helper.from_array(np.asarray(values), key) for key, values in made.items()],
    )
    return helper.make_model(graph, opset_imports=OPSET, ir_version=10)


def weight(least: int = -127) -> np.ndarray:
    return np.random.default_rng(0).integers(least, 128, (16, 16, 3, 3), dtype=np.int8)


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("tiles", [True, False])
def test_the_same_answers(tiles: bool) -> None:
    proto = quantized(weight())
    if tiles:
        lower_zero_points(proto)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 8, 8), dtype=np.uint8)
    values = 0.01 + np.arange(16)[:, None, None] * 0.01 / 15
    padded = np.pad(pixels.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = 0.05 * values * np.einsum("nchwij,ocij->nohw", windows, weight().astype(np.int64))
    (found,) = runtime.session(proto.SerializeToString()).run(None, {"x": pixels})
    expected = np.clip(np.rint(sums / 3) + 128, 0, 255)
    assert expected.std() > 20
    assert np.abs(found - expected).max() <= 1  # float32 beside float64, at a half
    assert (found == expected).mean() > 0.999


def test_nothing_but_zero_points_and_weights_changes() -> None:
    proto = quantized(weight())
    before, size = initializers(proto), proto.ByteSize()
    lower_zero_points(proto)
    found = initializers(proto)
    np.testing.assert_array_equal(found["w_quantized"], weight() - 1)
    np.testing.assert_array_equal(found["w_zero_point"], np.full(16, -1))
    for name, values in before.items():
        if not name.startswith("w_") or name == "w_scale":
            np.testing.assert_array_equal(found[name], values)
    assert found.keys() == before.keys()
    assert proto.ByteSize() == size


def test_names_and_encoding_do_not_matter() -> None:
    """The quantiser writes zero points as numbers, not as bytes."""
    proto = quantized(weight(), name="another name")
    for tensor in proto.graph.initializer:
        if tensor.name == "another name_zero_point":
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, [0] * 16))
    lower_zero_points(proto)
    found = initializers(proto)
    np.testing.assert_array_equal(found["another name"], weight() - 1)
    np.testing.assert_array_equal(found["another name_zero_point"], np.full(16, -1))


def shared() -> onnx.ModelProto:
    """The weight's zero point belongs to another tensor too."""
    proto = quantized(weight())
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["y", "many", "w_zero_point"], ["z"]))
    return proto


def without_zero_point() -> onnx.ModelProto:
    proto = quantized(weight())
    del proto.graph.node[1].input[2]
    return proto


def no_convolution() -> onnx.ModelProto:
    proto = quantized(weight())
    proto.graph.node[2].op_type = "Add"
    return proto


def from_outside() -> onnx.ModelProto:
    """The weight is an input of the graph."""
    proto = quantized(weight())
    for tensor in list(proto.graph.initializer):
        if tensor.name == "w_quantized":
            proto.graph.initializer.remove(tensor)
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        quantized(weight(least=-128)),  # has no room
        quantized(weight(), zero=1),
        quantized(weight(), zero=-1),
        quantized(weight().astype(np.uint8)),
        shared(),
        without_zero_point(),
        no_convolution(),
        from_outside(),
        onnx.ModelProto(),
    ],
)
def test_others_are_left_as_they_are(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString(deterministic=True)
    lower_zero_points(proto)
    assert proto.SerializeToString(deterministic=True) == before
