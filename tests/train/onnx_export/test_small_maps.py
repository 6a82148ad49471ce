"""Convolutions on small maps: what is made of them computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from train.onnx_export import graph, quantize, small_maps

# Map, kernel, stride, padding; output positions and what is left of the kernel.
SHAPES = [
    ((1, 1), (3, 3), 1, (1, 1), (1, 1), (1, 1)),
    ((2, 2), (3, 3), 2, (1, 1), (1, 1), (2, 2)),
    ((2, 2), (3, 3), 1, (1, 1), (2, 2), (3, 3)),
    ((4, 4), (3, 3), 2, (1, 1), (2, 2), (3, 3)),
    ((2, 2), (1, 1), 1, (0, 0), (2, 2), (1, 1)),
    ((2, 2), (1, 1), 2, (0, 0), (1, 1), (1, 1)),
    ((1, 2), (5, 3), 1, (2, 1), (1, 2), (1, 3)),
    ((3, 1), (3, 5), 2, (1, 2), (2, 1), (3, 1)),
    ((3, 3), (3, 3), 1, (0, 0), (1, 1), (3, 3)),
    ((5, 5), (3, 3), 2, (0, 0), (2, 2), (3, 3)),
]


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"]).run(
        None, {"x": x}
    )


def network(size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> onnx.ModelProto:
    """The convolution in question between two others, with one beside it, and added to it, that has no bias."""
    random = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}

    def conv(source: str, name: str, inputs: int, outputs: int, kernel: tuple[int, int], **how: object) -> NodeProto:
        made[f"{name}.weight"] = random.normal(size=(outputs, inputs, *kernel))
        made[f"{name}.bias"] = random.normal(size=outputs)
        given = [f"{name}.weight"] + ([f"{name}.bias"] if name != "beside" else [])
        return helper.make_node("Conv", [source, *given], [name], f"node_{name}", **how)

    how = {"strides": [stride, stride], "pads": [*padding, *padding]}
    nodes = [
        conv("x", "first", 8, 12, (1, 1)),
        helper.make_node("Relu", ["first"], ["first_relu"], "relu_0"),
        conv("first_relu", "small", 12, 12, kernel, **how),
        helper.make_node("Relu", ["small"], ["small_relu"], "relu_1"),
        conv("first_relu", "beside", 12, 12, kernel, **how),
        helper.make_node("Add", ["small_relu", "beside"], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["sum_relu"], "relu_2"),
        conv("sum_relu", "y", 12, 6, (1, 1)),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, *size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, None, None])],
            [numpy_helper.from_array(values.astype(np.float32), name) for name, values in made.items()],
        ),
        opset_imports=[helper.make_opsetid("", graph.OPSET)],
        ir_version=10,
    )


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.fixture(autouse=True)
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_maps, "LEAST_WEIGHTS", 1)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "positions", "left"), SHAPES)
def test_the_same_sums(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    positions: tuple[int, int],
    left: tuple[int, int],
) -> None:
    pixels = np.random.default_rng(1).normal(size=(50, 8, *size)).astype(np.float32)
    proto = network(size, kernel, stride, padding)
    (expected,) = outputs(proto, pixels)
    assert expected.shape == (50, 6, *positions)

    small_maps.crop_kernels(proto)
    shapes = sorted(tuple(tensor.dims) for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    assert shapes == sorted([(12, 8, 1, 1), (12, 12, *left), (12, 12, *left), (6, 12, 1, 1)])
    np.testing.assert_allclose(outputs(proto, pixels)[0], expected, atol=1e-4)

    int8 = quantize.quantize(proto, pixels)
    (integers,) = outputs(int8, pixels)

    for converted, answer, exact in ((proto, expected, False), (int8, integers, True)):
        convolutions = kinds(converted).count("Conv")
        small_maps.as_products(converted)
        # The first one stays where its map is larger.
        assert kinds(converted).count("Gemm") == convolutions - kinds(converted).count("Conv") >= 3
        for count in (1, 3, 50):
            (found,) = outputs(converted, pixels[:count])
            np.testing.assert_allclose(found, answer[:count], atol=0 if exact else 1e-4, rtol=0)


def test_the_rest_of_a_graph_is_left_alone() -> None:
    """Groups, dilation, padding left to ONNX, weights that come from elsewhere, maps of unknown or of large size."""

    def built(size: int | str, weight_from_outside: bool = False, **attributes: object) -> onnx.ModelProto:
        weight = np.ones((4, 4 // int(attributes.get("group", 1)), 3, 3), np.float32)  # type: ignore[call-overload]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, size, size])]
        if weight_from_outside:
            inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape))
        return helper.make_model(
            helper.make_graph(
                [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
                "one",
                inputs,
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, None, None])],
                [] if weight_from_outside else [numpy_helper.from_array(weight, "w")],
            ),
            opset_imports=[helper.make_opsetid("", graph.OPSET)],
        )

    for size, attributes in (
        (1, {"group": 2, "pads": [1] * 4}),
        (1, {"dilations": [2, 2], "pads": [2] * 4}),
        (1, {"auto_pad": "SAME_UPPER"}),
        (1, {"weight_from_outside": True, "pads": [1] * 4}),
        ("side", {"pads": [1] * 4}),
        (8, {"pads": [1] * 4}),
    ):
        proto = built(size, **attributes)  # type: ignore[arg-type]
        before = proto.SerializeToString(deterministic=True)
        small_maps.crop_kernels(proto)
        small_maps.as_products(proto)
        assert proto.SerializeToString(deterministic=True) == before, attributes


def test_pixels_that_no_window_reaches_stay() -> None:
    """A stride leaps over the last row: a kernel cut to what it sees would find room for a window more."""
    proto = network((6, 4), (5, 1), 3, (2, 0))
    pixels = np.random.default_rng(1).normal(size=(4, 8, 6, 4)).astype(np.float32)
    (expected,) = outputs(proto, pixels)
    small_maps.crop_kernels(proto)
    small_maps.as_products(proto)
    np.testing.assert_allclose(outputs(proto, pixels)[0], expected, atol=1e-4)
