"""Build the ONNX files of published models from their safetensors. The same weights give the same files again."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from train.data import loading
from train.data.reference import DataOptions, recorded
from train.files import atomic_write
from train.jobs import KILLED, first_line, in_processes
from train.onnx_export import graph, quantize, runtime, small_maps, tiles
from train.onnx_export.metadata import ALL_FILES, AMX_FILE, FILES, NO_INT8, files, metadata, stated
from train.training import models
from train.training.results import measure
from train.training.runs import run_data
from zoo.calibration import of_weights

# The share of the validation images that int8 may get wrong beyond those of fp32; one image is always allowed.
INT8_LOSS = 0.02
SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def export(card: Path) -> list[Path]:
    """Write the ONNX files of a published model beside its weights, and return their paths.

    A model that cannot be quantised, or loses too much by it, gets the fp32 file alone; a line says so.

    Raises:
        models.ModelError: the folder is no published model.
        data.DataError: the training images that int8 is calibrated on cannot be loaded, or are of other classes.
    """
    model, config = models.load_card(card)
    fp32 = graph.build(model, tuple(config["image_size"]), of_weights(model))
    # The quantiser looks for convolutions, so they become products after it.
    int8 = _quantized(fp32, card.name, config)
    protos, properties = {FILES["fp32"]: fp32}, {"parameters": str(measure.parameters(model))}
    if int8 is None:
        properties |= NO_INT8
    else:
        amx = onnx.ModelProto()
        small_maps.as_products(int8)
        amx.CopyFrom(int8)
        tiles.lower_zero_points(amx)
        protos |= {FILES["int8"]: int8, AMX_FILE: amx}
    small_maps.as_products(fp32)
    for file, proto in protos.items():
        onnx.checker.check_model(proto)
        _save(proto, card / file, {**properties, **metadata(card, file)})
    for file in {*ALL_FILES} - protos.keys():  # of an earlier export
        (card / file).unlink(missing_ok=True)
    return [card / file for file in protos]


def _quantized(fp32: onnx.ModelProto, title: str, config: dict[str, Any]) -> onnx.ModelProto | None:
    """Quantise a graph; None, and a line that says why, where that fails or costs too much on the validation images.

    Activations that spread widely, as after the attention of a ViT or the hard swish of a MobileNetV3, do not fit one
    8-bit scale.
    """
    data = _dataset(title, config)
    images = quantize.calibration_images(config["dataset"], data.train, quantize.CALIBRATION_IMAGES)
    try:
        int8 = quantize.quantize(fp32, images.permute(0, 2, 3, 1).numpy())
        before, after = (_correct(proto.SerializeToString(), data.validation) for proto in (fp32, int8))
    except Exception as error:  # ONNX Runtime raises many types, which have only this one in common
        print(f"{title}: no int8 file: {first_line(error)}", file=sys.stderr)
        return None
    count = len(data.validation)
    lost, most = before - after, max(1, INT8_LOSS * count)
    if lost <= most:
        return int8
    print(f"{title}: no int8 file: it would get {lost} of {count} validation images more wrong", file=sys.stderr)
    return None


def _correct(content: bytes, split: loading.Split) -> int:
    """Count the images that an ONNX file classifies right."""
    return int((runtime.predict(content, split.images).argmax(1) == split.labels.numpy()).sum())


def _dataset(title: str, config: dict[str, Any]) -> loading.Dataset:
    """Load a card's dataset, to calibrate and check int8. Images of MNIST and CIFAR-10 ship with the project."""
    dataset = config["dataset"]
    samples = SAMPLES if recorded(dataset).paper else None
    options = DataOptions.of(config.get("data_options", {}))
    found = loading.load(dataset, samples, config["image_size"][0], options)
    run_data.require_same_data(title, config["label_names"], config["image_size"][2], found)
    return found


def state_accuracies(card: Path) -> None:
    """Write the accuracies of `metrics.json` into ONNX files that were built before they were measured."""
    for file in files(card):
        _save(onnx.load(card / file), card / file, stated(card / file) | metadata(card, file))


def _save(proto: onnx.ModelProto, file: Path, properties: dict[str, str]) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, properties)
    with atomic_write(file) as temporary:
        onnx.save(proto, temporary)


@dataclass(frozen=True)
class Built:
    """A card whose export has ended: the paths of its files, or without paths the error in one line."""

    card: Path
    files: list[Path]
    error: str
    seconds: float


def export_all(cards: list[Path], jobs: int) -> Iterator[Built]:
    """Export several published models, `jobs` at a time, each in a process of its own.

    Yields:
        Each card as soon as it is done.
    """
    for card, built in in_processes(_attempt, cards, jobs):
        yield built or Built(card, [], KILLED, seconds=0)


def _attempt(card: Path) -> Built:
    began = time.perf_counter()
    files, failure = [], ""
    try:
        files = export(card)
    except Exception as error:  # torch's exporter raises nearly anything; the other models still get their files
        failure = first_line(error)
    return Built(card, files, failure, time.perf_counter() - began)
