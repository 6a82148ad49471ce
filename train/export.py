"""Published models as ONNX, fp32 and int8: `python train/export.py` for all, or with names or folders for some.

The graph takes the dataset's own pixels and holds all that stands between them and the answer: scaling, resizing,
normalisation, network, softmax. The files are built, not tracked: the same weights give the same files again. Their
metadata tell what they were built from, so that `--missing` builds those anew that other weights or other code gave.
"""

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from tqdm import tqdm

from train import data, measure, models, small_maps
from train.errors import exit_status
from train.files import read_json, replacing, sha256
from train.fold import factor, fold
from train.preprocess import Preprocess

OPSET = 20
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
CALIBRATION_IMAGES = 500
# What carries the arithmetic. Scaling, resizing and normalisation stay float, and so does the softmax. Without Relu the
# quantiser would keep the negative half of what comes before one, and turn each into a conversion to float and back.
QUANTIZED_OPS = [
    "Conv", "Relu", "Gemm", "MatMul", "Add", "MaxPool", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean",
]  # fmt: skip
SAMPLES = Path(__file__).resolve().parent / "samples"
# The code that decides what is in a file.
SOURCES = ("train/export.py", "train/fold.py", "train/preprocess.py", "train/small_maps.py", "zoo/*.py")


class _Preprocess(Preprocess):
    """The same with the resize as two matrix products, each side's weights in one matrix: a fifth of Resize's time."""

    def resize(self, x: Tensor) -> Tensor:
        down, across = (
            Preprocess.resize(self.at((size, length)), torch.eye(length)[None, None])[0, 0]
            for size, length in zip(self.size, x.shape[-2:], strict=True)
        )
        return down @ (x @ across.T)


class Classifier(nn.Module):
    """uint8 pixels [batch, H, W, C] -> logits and probabilities, float32 [batch, classes]."""

    def __init__(self, model: nn.Module, pixels: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = pixels
        self.preprocess = _Preprocess(models.pretrained_cfg(model))
        # One value a pixel: ONNX Runtime turns the graph to [batch, H, W, C], and takes ten times as long to subtract
        # three from every three.
        for name in ("mean", "std"):
            values = getattr(self.preprocess, name)
            setattr(self.preprocess, name, values.expand(1, channels, height, width).contiguous())
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Contiguous: what PyTorch does for the strides of channels_last maps behind a pool, ONNX would have to imitate.
        logits = self.model(self.preprocess(image.permute(0, 3, 1, 2).contiguous()))
        return logits, logits.softmax(dim=1)


@contextmanager
def _quiet(name: str | None = None) -> Iterator[None]:
    """Keep a library's advice on what is done here on purpose from the terminal."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def build(model: nn.Module, pixels: tuple[int, int, int]) -> onnx.ModelProto:
    """The fp32 graph of a model in evaluation mode, for images of `pixels` (height, width, channels)."""
    example = torch.zeros((2, *pixels), dtype=torch.uint8)  # two: a batch of one would be taken for a constant
    with warnings.catch_warnings(), _quiet("torch.onnx"), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Classifier(factor(fold(model, models.pretrained_cfg(model)["input_size"])), pixels).eval(),
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
    small_maps.crop_kernels(proto)
    onnx.checker.check_model(proto)
    return proto


def calibration_images(dataset: str, training: data.Split, count: int) -> Tensor:
    """At most `count` training images, uint8 [n, C, H, W], of all classes."""
    # The paper's datasets are mixed as they are.
    few = training.take(slice(count)) if dataset in data.HUB_IDS else training.spread(count)
    return few.images


class _Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = iter(np.array_split(images, max(1, len(images) // 50)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize(proto: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The int8 graph: static, QDQ, weights per channel, calibrated on training images uint8 [n, H, W, C]."""
    with tempfile.TemporaryDirectory() as name, _quiet():
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
        if tensor.data_type == onnx.TensorProto.INT8:  # as bytes: so the server may move zero points (serve/tiles.py)
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


def export(card: Path) -> list[Path]:
    """Write `model.onnx` and `model.int8.onnx` beside a published model's weights, and return their paths.

    Raises:
        models.ModelError: the folder is no published model.
        data.DataError: the training images that int8 is calibrated on cannot be had.
    """
    model, config = models.load_card(card)
    dataset = config["dataset"]
    graph = build(model, tuple(config["image_size"]))
    for precision, file in FILES.items():
        if precision == "int8":
            samples = SAMPLES if dataset in data.HUB_IDS else None
            training = data.load(dataset, samples, config["image_size"][0]).train
            images = calibration_images(dataset, training, CALIBRATION_IMAGES)
            graph = quantize(graph, images.permute(0, 2, 3, 1).numpy())
        proto = onnx.ModelProto()
        proto.CopyFrom(graph)
        small_maps.as_products(proto)  # last: the quantiser goes by convolutions
        onnx.checker.check_model(proto)
        _save(proto, card / file, {"parameters": str(measure.parameters(model)), **metadata(card, precision)})
    return [card / file for file in FILES.values()]


def state_accuracies(card: Path) -> None:
    """Have the ONNX files of a published model, exported before they were measured, state what `metrics.json` does."""
    for precision, file in FILES.items():
        _save(onnx.load(card / file), card / file, stated(card / file) | metadata(card, precision))


def metadata(card: Path, precision: str) -> dict[str, str]:
    """What a published model's ONNX file must say of itself: what it is built from and, once measured, its accuracy.

    Raises:
        OSError, files.FileError: a file of the card is missing, or damaged.
    """
    config = read_json(card / "config.json")
    cfg = config["pretrained_cfg"]
    measured = {}
    if (card / "metrics.json").is_file():
        accuracy = read_json(card / "metrics.json")["onnx_test_accuracy"][precision]
        measured["accuracy"] = f"{accuracy:.2f}"
    return {
        "model": config["architecture"],
        "tag": cfg["tag"],
        "labels": json.dumps(config["label_names"]),
        "safetensors_sha256": sha256(card / "model.safetensors"),
        "pretrained_cfg": json.dumps(
            {key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
        ),
        "sources_sha256": _sources_sha256(),
        "precision": precision,
        **measured,
    }


@cache
def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(models.REPOSITORY.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def stated(file: Path) -> dict[str, str]:
    """The metadata of an ONNX file; an empty dict where there is no such file, or a damaged one."""
    try:
        return {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    except (FileNotFoundError, DecodeError):
        return {}


def differing(card: Path, precision: str) -> list[str]:
    """Which of the metadata of a published model's ONNX file do not say what they must; none if it is up to date."""
    found = stated(card / FILES[precision])
    return [key for key, value in metadata(card, precision).items() if found.get(key) != value]


def _save(proto: onnx.ModelProto, file: Path, properties: dict[str, str]) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, properties)
    with replacing(file) as aside:
        onnx.save(proto, aside)


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU: its figures are the same wherever they are computed."""
    options = onnxruntime.SessionOptions()
    # Without 8-bit dot products (VNNI) an x86 processor would else let sums of two products run over, which costs up to
    # 1.4 points on CIFAR-10. With them nothing runs over, and this would take several times as long.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # a torch too old to tell
    if not (capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")):
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
    parser.add_argument("--missing", action="store_true", help="build only files that are missing or out of date")
    parser.add_argument(
        "--jobs", type=int, default=1, help="models at a time, each in a process of its own (default: 1)"
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return exit_status("export.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    cards = models.chosen(args.models)
    if args.missing:
        cards = [card for card in cards if outdated(card)]
    failed = False
    with tqdm(total=len(cards), unit="model", disable=None) as bar:
        for card, paths, reason in _exported(cards, args.jobs):
            for path in paths:
                bar.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", file=sys.stdout)
            if reason:
                failed = True
                bar.write(f"export.py: {card.name}: {reason}", file=sys.stderr)
            bar.update()
    return 1 if failed else 0


def _exported(cards: list[Path], jobs: int) -> Iterator[tuple[Path, list[Path], str]]:
    """Each card with the files that were written, or why there are none, as soon as it is done with."""
    if jobs == 1 or len(cards) < 2:
        yield from ((card, *_attempt(card)) for card in cards)
        return
    # A fork of a process with threads, which torch starts, can hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _share_cores, (jobs,)) as pool:
        tasks = {pool.submit(_attempt, card): card for card in cards}
        for task in as_completed(tasks):
            try:
                yield (tasks[task], *task.result())
            except BrokenExecutor:  # killed, as for want of memory
                yield tasks[task], [], "the process that built it, or one beside it, was killed; try --jobs 1"


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _attempt(card: Path) -> tuple[list[Path], str]:
    try:
        return export(card), ""
    except Exception as error:  # torch's exporter raises nearly anything; the other models get their files
        return [], str(error).partition("\n")[0] or type(error).__name__


def outdated(card: Path) -> bool:
    """Whether a published model's ONNX files are missing, or built from other weights, another card or other code."""
    try:
        return any(differing(card, precision) for precision in FILES)
    except (OSError, ValueError, KeyError):  # a damaged card: `export` tells
        return True


if __name__ == "__main__":
    sys.exit(main())
