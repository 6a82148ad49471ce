"""int8 graphs: static quantisation by ONNX Runtime, calibrated on training images."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from train.data import loading
from train.data.reference import recorded
from train.onnx_export import runtime
from train.onnx_export.graph import quiet

CALIBRATION_IMAGES = 500
CALIBRATION_BATCH = 50

# The operators that take the time. Scaling, resizing, normalisation and softmax stay float. Relu has to be among them:
# the quantiser would otherwise keep the negative half of its input, and convert to float and back for each Relu.
QUANTIZED_OPS = [
    "Conv", "Relu", "Gemm", "MatMul", "Add", "MaxPool", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean",
]  # fmt: skip


def calibration_images(dataset: str, training: loading.Split, count: int) -> Tensor:
    """At most `count` training images, uint8 [n, C, H, W], of all classes."""
    # MNIST and CIFAR-10 are stored in random order, others may be stored class by class.
    few = training.take(slice(count)) if recorded(dataset).paper else training.spread(count)
    return few.images


def quantize(proto: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The int8 version of an fp32 graph: QDQ format, one scale for each output channel of a weight.

    Args:
        proto: a graph with one input. It is not changed.
        images: what the ranges of the activations are measured on, as the graph's input takes them: uint8 [n, H, W, C].
    """
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        onnx.save(proto, folder / "float.onnx")
        quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        _measure_ranges(folder, _Batches(proto.graph.input[0].name, images))
        quantize_static(
            str(folder / "prepared.onnx"),
            str(folder / "int8.onnx"),
            calibration_data_reader=None,
            calibration_cache_path=str(folder / "ranges.json"),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPS,
            nodes_to_exclude=_preprocessing(onnx.load(folder / "prepared.onnx")),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(folder / "int8.onnx")


def _measure_ranges(folder: Path, batches: CalibrationDataReader) -> None:
    """Write the ranges of the activations, from `prepared.onnx` to `ranges.json`.

    As `quantize_static` does, to the bit, but on this process's share of the cores: by default each process that
    exports would take all of them.
    """
    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(folder / "prepared.onnx", QUANTIZED_OPS, augmented)
    options = runtime.session_options()
    # More would change the sums in their last bits, and with them what int8 makes of a few images in a thousand.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    calibrator.infer_session = onnxruntime.InferenceSession(augmented, options, providers=["CPUExecutionProvider"])
    calibrator.collect_data(batches)
    save_tensors_data(calibrator.compute_data(), folder / "ranges.json")


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no type annotations
    def __init__(self, name: str, images: np.ndarray) -> None:
        parts = np.array_split(images, max(1, len(images) // CALIBRATION_BATCH))
        self.inputs = iter([{name: part} for part in parts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)


def _preprocessing(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first convolution."""
    names: list[str] = []
    for node in proto.graph.node:
        if node.op_type == "Conv":
            return names
        names.append(node.name)
    raise ValueError("the graph has no convolution")
