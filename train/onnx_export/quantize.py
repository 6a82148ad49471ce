"""int8 graphs: static quantisation, calibrated on training images."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from train.data import loading
from train.data.reference import recorded
from train.onnx_export.graph import quiet

CALIBRATION_IMAGES = 500


# What carries the arithmetic. Scaling, resizing and normalisation stay float, and so does the softmax. Without Relu the
# quantiser would keep the negative half of what comes before one, and turn each into a conversion to float and back.
QUANTIZED_OPS = [
    "Conv", "Relu", "Gemm", "MatMul", "Add", "MaxPool", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean",
]  # fmt: skip


def calibration_images(dataset: str, training: loading.Split, count: int) -> Tensor:
    """At most `count` training images, uint8 [n, C, H, W], of all classes."""
    # The paper's datasets are mixed as they are.
    few = training.take(slice(count)) if recorded(dataset).paper else training.spread(count)
    return few.images


class _Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = iter(np.array_split(images, max(1, len(images) // 50)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize(proto: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The int8 graph: static, QDQ, weights per channel, calibrated on training images uint8 [n, H, W, C]."""
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        onnx.save(proto, folder / "float.onnx")
        quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        quantize_static(
            str(folder / "prepared.onnx"),
            str(folder / "int8.onnx"),
            _Calibration(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPS,
            nodes_to_exclude=_preprocessing(onnx.load(folder / "prepared.onnx")),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(folder / "int8.onnx")
    for tensor in quantized.graph.initializer:
        if (
            tensor.data_type == onnx.TensorProto.INT8
        ):  # as bytes: so the server may move zero points (serve/engine/tiles.py)
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    return quantized


def _preprocessing(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first convolution."""
    names: list[str] = []
    for node in proto.graph.node:
        if node.op_type == "Conv":
            return names
        names.append(node.name)
    raise ValueError("the graph has no convolution")
