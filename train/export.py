"""Published models as ONNX, fp32 and int8: `python train/export.py` for all, or with names or folders for some.

The graph takes the dataset's own pixels and holds all that stands between them and the answer: scaling, resizing,
normalisation, network, softmax. The files are built, not tracked: the same weights give the same files again.
"""

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from tqdm import tqdm

from train import data, measure, models
from train.files import replacing
from train.fold import factor, fold
from train.preprocess import Preprocess

OPSET = 20
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
CALIBRATION_IMAGES = 500
# What carries the arithmetic. Scaling, resizing and normalisation stay float, and so does the softmax.
QUANTIZED_OPS = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean"]
SAMPLES = Path(__file__).resolve().parent / "samples"


class Classifier(nn.Module):
    """uint8 pixels [batch, H, W, C] -> logits and probabilities, float32 [batch, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.preprocess = Preprocess(models.pretrained_cfg(model))
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(self.preprocess(image.permute(0, 3, 1, 2)))
        return logits, logits.softmax(dim=1)


def build(model: nn.Module, pixels: tuple[int, int, int]) -> onnx.ModelProto:
    """The fp32 graph of a model in evaluation mode, for images of `pixels` (height, width, channels)."""
    example = torch.zeros((2, *pixels), dtype=torch.uint8)  # two: a batch of one would be taken for a constant
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Classifier(factor(fold(model, models.pretrained_cfg(model)["input_size"]))).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            input_names=["image"],
            output_names=["logits", "probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # None is for the exporter that writes files
    proto = program.model_proto
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del entry.metadata_props[:]  # stack traces, with paths of the machine that exported
        entry.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    onnx.checker.check_model(proto)
    return proto


class _Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = iter(np.array_split(images, max(1, len(images) // 50)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize(proto: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The int8 graph: static, QDQ, weights per channel, calibrated on training images uint8 [n, H, W, C]."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(proto, folder / "float.onnx")
        quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        logging.getLogger().setLevel(logging.ERROR)
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
        return onnx.load(folder / "int8.onnx")


def _preprocessing(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first convolution."""
    names: list[str] = []
    for node in proto.graph.node:
        if node.op_type == "Conv":
            return names
        names.append(node.name)
    raise ValueError("the graph has no convolution")


def export(card: Path) -> Iterator[Path]:
    """Write `model.onnx` and `model.int8.onnx` beside a published model's weights; yields each path when written.

    Raises:
        models.ModelError: the folder is no published model.
    """
    model, config = models.load_card(card)
    cfg = config["pretrained_cfg"]
    metrics = json.loads((card / "metrics.json").read_text()) if (card / "metrics.json").is_file() else {}
    dataset = config["dataset"]
    proto = build(model, tuple(config["image_size"]))
    metadata = {
        "model": config["architecture"],
        "tag": dataset,
        "labels": json.dumps(config["label_names"]),
        "parameters": str(measure.parameters(model)),
        "safetensors_sha256": hashlib.sha256((card / "model.safetensors").read_bytes()).hexdigest(),
        "pretrained_cfg": json.dumps(
            {key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
        ),
    }
    for precision, file in FILES.items():
        if precision == "int8":
            samples = SAMPLES if dataset in data.HUB_IDS else None
            training = data.load(dataset, samples, config["image_size"][0]).train.images[:CALIBRATION_IMAGES]
            proto = quantize(proto, training.permute(0, 2, 3, 1).numpy())
        accuracy = metrics.get("onnx_test_accuracy", {}).get(precision)
        _save(proto, card / file, metadata | {"precision": precision}, accuracy)
        yield card / file


def state_accuracies(card: Path) -> None:
    """Have the ONNX files of a published model, exported before they were measured, state what `metrics.json` does."""
    accuracies = json.loads((card / "metrics.json").read_text())["onnx_test_accuracy"]
    for precision, file in FILES.items():
        proto = onnx.load(card / file)
        _save(proto, card / file, {prop.key: prop.value for prop in proto.metadata_props}, accuracies[precision])


def _save(proto: onnx.ModelProto, file: Path, metadata: dict[str, str], accuracy: float | None) -> None:
    stated = {"accuracy": f"{accuracy:.2f}"} if accuracy is not None else {}
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata | stated)
    with replacing(file) as aside:
        onnx.save(proto, aside)


def session(file: Path) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU: its figures are the same wherever they are computed."""
    options = onnxruntime.SessionOptions()
    # Without 8-bit dot products (VNNI) an x86 processor would else let sums of two products run over, which costs up to
    # 1.4 points on CIFAR-10.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def predict(file: Path, images: Tensor) -> np.ndarray:
    """Logits float32 [n, classes] of an ONNX file for uint8 images [n, C, H, W]."""
    runner = session(file)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return np.concatenate(
        [runner.run(["logits"], {"image": part})[0] for part in np.array_split(pixels, max(1, len(pixels) // 100))]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python train/export.py", description="Build the ONNX files of published models."
    )
    parser.add_argument(
        "models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all published)"
    )
    parser.add_argument(
        "--missing", action="store_true", help="leave alone what is newer than its weights and its card"
    )
    args = parser.parse_args(argv)
    try:
        cards = [models.card(name) for name in args.models] or models.cards()
        if not cards:
            raise models.ModelError(f"no published models in {models.MODEL_CARDS}")
        if args.missing:
            cards = [card for card in cards if _outdated(card)]
        for card in (bar := tqdm(cards, unit="model", disable=None)):
            bar.set_description(card.name)
            for path in export(card):
                bar.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", file=sys.stdout)
    except (models.ModelError, data.DataError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    return 0


def _outdated(card: Path) -> bool:
    sources = [card / name for name in ("model.safetensors", "config.json", "metrics.json")]
    newest = max(path.stat().st_mtime for path in sources if path.is_file())
    return any(not (card / file).is_file() or (card / file).stat().st_mtime < newest for file in FILES.values())


if __name__ == "__main__":
    sys.exit(main())
