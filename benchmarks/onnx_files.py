"""Measure images per second of the ONNX files.

Each precision as PyTorch's exporter and ONNX Runtime's quantiser write it and as this project builds it and, where the
processor has AMX, the int8 file for it.

`python benchmarks/onnx_files.py [MODEL ...]`: on one core, all files in every turn, so that all see the same load of
other processes. The ratios are medians over the turns.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serve.engine.processor import has_int8_dot_product, has_int8_tiles
from train.data import loading
from train.data.preprocess import Preprocess
from train.onnx_export import build, graph, metadata, quantize, small_maps
from train.training import models

BATCHES = (1, 16, 32)


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not has_int8_dot_product():  # sums would overflow
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def plain(card: Path) -> dict[str, bytes]:
    """Both precisions of a published model without small_maps.py and the export's own resize."""
    model, config = models.load_card(card)
    training = loading.load(config["dataset"], build.SAMPLES).train
    images = quantize.calibration_images(config["dataset"], training, quantize.CALIBRATION_IMAGES)
    with mock.patch.object(small_maps, "crop_kernels"), mock.patch.object(graph, "MatrixResize", Preprocess):
        built = graph.build(model, tuple(config["image_size"]))
    int8 = quantize.quantize(built, images.permute(0, 2, 3, 1).numpy())
    return {"fp32": built.SerializeToString(), "int8": int8.SerializeToString()}


def stages(name: str) -> Iterator[tuple[str, list[bytes]]]:
    """Each precision of a published model: plain, as built and, for int8 on a processor with AMX, the file for it."""
    card = models.card(name)
    for precision, before in plain(card).items():
        files = [metadata.FILES[precision]]
        if precision == "int8" and has_int8_tiles():
            files.append(metadata.AMX_FILE)
        yield precision, [before, *((card / file).read_bytes() for file in files)]


def times(sessions: Sequence[onnxruntime.InferenceSession], batch: int, turns: int) -> np.ndarray:
    """Seconds of a run, [turns, sessions], without the first three turns, which warm up."""
    shape = sessions[0].get_inputs()[0].shape[1:]
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    seconds = np.zeros((turns + 3, len(sessions)))
    for turn in seconds:
        for index, one in enumerate(sessions):
            began = time.perf_counter()
            one.run(None, {"image": images})
            turn[index] = time.perf_counter() - began
    return seconds[3:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["improved_resnet18.cifar10"], help="published models of the zoo")
    parser.add_argument("--turns", type=int, default=30)
    given = parser.parse_args()
    print("| model | file, MB | batch | plain, images/s | as built | | for AMX | | of fp32 as built |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.models:
        found = dict(stages(name))
        sessions = {precision: [session(model) for model in graphs] for precision, graphs in found.items()}
        for batch in BATCHES:
            seconds = times([*sessions["fp32"], *sessions["int8"]], batch, given.turns)
            built_fp32 = seconds[:, 1:2]
            for precision, part in (("fp32", seconds[:, :2]), ("int8", seconds[:, 2:])):
                rates = batch / np.median(part, axis=0)
                ratios = np.median(part[:, :1] / part, axis=0)
                cells = [f"{rates[0]:.0f}"]
                cells += [f"{rate:.0f} | {ratio:.2f}x" for rate, ratio in zip(rates[1:], ratios[1:], strict=True)]
                if len(rates) == 2:
                    cells.append(" | ")
                cells.append(f"{np.median(built_fp32 / part[:, -1:]):.2f}x")
                before, built = (len(graph) / 1e6 for graph in found[precision][:2])
                print(
                    f"| `{name}`, {precision} | {before:.1f} -> {built:.1f} | {batch}",
                    *cells,
                    sep=" | ",
                    end=" |\n",
                    flush=True,
                )


if __name__ == "__main__":
    main()
