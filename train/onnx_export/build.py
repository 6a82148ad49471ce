"""A published model's ONNX files, built from its safetensors: the same weights give the same files again."""

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import onnx
import torch

from train.data import loading
from train.data.reference import recorded
from train.files import replacing
from train.onnx_export import graph as graphs
from train.onnx_export import small_maps
from train.onnx_export.metadata import FILES, metadata, stated
from train.onnx_export.quantize import CALIBRATION_IMAGES, calibration_images, quantize
from train.training import measure, models

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def export(card: Path) -> list[Path]:
    """Write `model.onnx` and `model.int8.onnx` beside a published model's weights, and return their paths.

    Raises:
        models.ModelError: the folder is no published model.
        DataError: the training images that int8 is calibrated on cannot be had.
    """
    model, config = models.load_card(card)
    dataset = config["dataset"]
    graph = graphs.build(model, tuple(config["image_size"]))
    for precision, file in FILES.items():
        if precision == "int8":
            samples = SAMPLES if recorded(dataset).paper else None
            training = loading.load(dataset, samples, config["image_size"][0]).train
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


def _save(proto: onnx.ModelProto, file: Path, properties: dict[str, str]) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, properties)
    with replacing(file) as aside:
        onnx.save(proto, aside)


def export_all(cards: list[Path], jobs: int) -> Iterator[tuple[Path, list[Path], str]]:
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
