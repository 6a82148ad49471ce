"""Convolutions for processors that multiply in tiles: the same network, and only where it is one of ours."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from serve.engine import models
from serve.engine.tiles import with_tiles

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


def opened(path: Path) -> onnxruntime.InferenceSession:
    return models._open(path, 1, "cpu", models._for_this_processor(path))


@pytest.mark.parametrize("tiles", [True, False])
def test_the_same_answers(tiles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / models.FILES["int8"]
    onnx.save(quantized(weight()), path)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 8, 8), dtype=np.uint8)
    values = 0.01 + np.arange(16)[:, None, None] * 0.01 / 15
    padded = np.pad(pixels.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = 0.05 * values * np.einsum("nchwij,ocij->nohw", windows, weight().astype(np.int64))
    monkeypatch.setattr(models, "has_int8_tiles", lambda: tiles)
    monkeypatch.setattr(models, "has_int8_dot_product", lambda: False)  # exact anywhere
    (found,) = opened(path).run(None, {"x": pixels})
    expected = np.clip(np.rint(sums / 3) + 128, 0, 255)
    assert expected.std() > 20
    assert np.abs(found - expected).max() <= 1  # float32 beside float64, at a half
    assert (found == expected).mean() > 0.999


def test_nothing_but_zero_points_and_weights_changes() -> None:
    before = quantized(weight()).SerializeToString()
    changed = with_tiles(before)
    assert changed is not None
    after = onnx.load_from_string(changed)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    np.testing.assert_array_equal(found["w_quantized"], weight() - 1)
    np.testing.assert_array_equal(found["w_zero_point"], np.full(16, -1))
    for tensor in onnx.load_from_string(before).graph.initializer:
        if not tensor.name.startswith("w_") or tensor.name == "w_scale":
            np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))
    assert len(changed) == len(before)


@pytest.mark.parametrize(
    "proto",
    [
        quantized(weight(least=-128)),  # has no room
        quantized(weight(), zero=1),
        quantized(weight(), name="another name"),
        quantized(weight().view(np.int8)[:, :, :, :], zero=-1),
        onnx.ModelProto(),
    ],
)
def test_others_are_left_as_they_are(proto: onnx.ModelProto) -> None:
    assert with_tiles(proto.SerializeToString()) is None


def test_numbers_in_place_of_bytes_are_left_as_they_are() -> None:
    proto = quantized(weight())
    for tensor in proto.graph.initializer:
        if tensor.name == "w_zero_point":
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, [0] * 16))
    assert with_tiles(proto.SerializeToString()) is None


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\x3a\xff", b"\xff" * 40, quantized(weight()).SerializeToString()[:-9]]
)
def test_what_is_no_model_is_told_as_ever(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / models.FILES["int8"]
    path.write_bytes(content)
    said = []
    for tiles in (True, False):
        monkeypatch.setattr(models, "has_int8_tiles", lambda tiles=tiles: tiles)
        with pytest.raises(Exception, match="model") as error:
            opened(path)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


def test_weights_in_a_file_beside_it_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models keep them there; what is found in the graph itself is changed all the same."""
    proto = quantized(weight())
    path = tmp_path / models.FILES["int8"]
    onnx.save(proto, path, save_as_external_data=True, size_threshold=40, location="beside.bin")
    assert (tmp_path / "beside.bin").stat().st_size > 2000
    monkeypatch.setattr(models, "has_int8_tiles", lambda: True)
    pixels = np.ones((1, 16, 8, 8), np.uint8)
    (found,) = opened(path).run(None, {"x": pixels})
    assert found.shape == (1, 16, 8, 8)
