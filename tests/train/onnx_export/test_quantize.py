"""Quantisation: the ranges of the activations are those that ONNX Runtime itself measures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

from train.onnx_export import graph, quantize
from train.training import models


def plain(folder: Path, batches: CalibrationDataReader) -> None:
    calibrator = create_calibrator(folder / "prepared.onnx", quantize.QUANTIZED_OPS, str(folder / "augmented.onnx"))
    calibrator.collect_data(batches)
    save_tensors_data(calibrator.compute_data(), folder / "ranges.json")


def test_a_share_of_the_cores_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    proto = graph.build(models.create("tiny_net", "cifar10", 10, 3).eval(), (32, 32, 3))
    images = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), np.uint8)
    images[100:] //= 4
    found = quantize.quantize(proto, images)
    monkeypatch.setattr(quantize, "_measure_ranges", plain)
    expected = quantize.quantize(proto, images)
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in expected.graph.node]
    ours, theirs = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in one.graph.initializer} for one in (found, expected)
    )
    assert ours.keys() == theirs.keys()
    assert any(name.endswith("_scale") for name in ours)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
