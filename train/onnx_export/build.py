"""Build the ONNX files of published models from their safetensors. The same weights give the same files again."""

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from train.data import loading
from train.data.reference import recorded
from train.files import atomic_write
from train.onnx_export import graph, quantize, small_maps, tiles
from train.onnx_export.metadata import ALL_FILES, AMX_FILE, FILES, metadata, stated
from train.training import measure, models

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def export(card: Path) -> list[Path]:
    """Write the ONNX files of a published model beside its weights, and return their paths.

    Raises:
        models.ModelError: the folder is no published model.
        data.DataError: the training images that int8 is calibrated on cannot be loaded.
    """
    model, config = models.load_card(card)
    fp32 = graph.build(model, tuple(config["image_size"]))
    # The quantiser looks for convolutions, so they become products after it.
    int8 = quantize.quantize(fp32, _calibration_images(config))
    for proto in (fp32, int8):
        small_maps.as_products(proto)
    amx = onnx.ModelProto()
    amx.CopyFrom(int8)
    tiles.lower_zero_points(amx)
    for file, proto in {FILES["fp32"]: fp32, FILES["int8"]: int8, AMX_FILE: amx}.items():
        onnx.checker.check_model(proto)
        _save(proto, card / file, {"parameters": str(measure.parameters(model)), **metadata(card, file)})
    return [card / file for file in ALL_FILES]


def _calibration_images(config: dict[str, Any]) -> np.ndarray:
    """Training images of a card's dataset, uint8 [n, H, W, C]. Those of MNIST and CIFAR-10 ship with the project."""
    dataset = config["dataset"]
    samples = SAMPLES if recorded(dataset).paper else None
    training = loading.load(dataset, samples, config["image_size"][0]).train
    images = quantize.calibration_images(dataset, training, quantize.CALIBRATION_IMAGES)
    return images.permute(0, 2, 3, 1).numpy()


def state_accuracies(card: Path) -> None:
    """Write the accuracies of `metrics.json` into ONNX files that were built before they were measured."""
    for file in ALL_FILES:
        _save(onnx.load(card / file), card / file, stated(card / file) | metadata(card, file))


def _save(proto: onnx.ModelProto, file: Path, properties: dict[str, str]) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, properties)
    with atomic_write(file) as temporary:
        onnx.save(proto, temporary)


def export_all(cards: list[Path], jobs: int) -> Iterator[tuple[Path, list[Path], str]]:
    """Export several published models, `jobs` at a time, each in a process of its own.

    Yields:
        Each card as soon as it is done, with the paths of its files, or without paths and with the error in one line.
    """
    if jobs == 1 or len(cards) < 2:
        yield from ((card, *_attempt(card)) for card in cards)
        return
    # torch starts threads, and a fork of a process with threads can hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _share_cores, (jobs,)) as pool:
        tasks = {pool.submit(_attempt, card): card for card in cards}
        for task in as_completed(tasks):
            try:
                yield (tasks[task], *task.result())
            except BrokenExecutor:  # killed, for example when memory runs out
                yield tasks[task], [], "the process that built it, or one beside it, was killed; try --jobs 1"


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _attempt(card: Path) -> tuple[list[Path], str]:
    try:
        return export(card), ""
    except Exception as error:  # torch's exporter raises nearly anything; the other models still get their files
        return [], str(error).partition("\n")[0] or type(error).__name__
