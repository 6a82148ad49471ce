"""How many drawn and photographed digits does the app get right?

    python benchmarks/drawn_digits.py --data-dir DATA [--model NAME] [--count 500] [--split test] [--rows WORD ...]

MNIST digits are thinned to their strokes and drawn again as a hand would draw them, the line jittered:

- as images: a brush of 8 to 40 px on a 280 px canvas, any place, any size from `SMALLEST` brush widths up to the whole
  canvas;
- as strokes, which the app's drawing pad sends: of one size (in the pad's side) and with one brush a row;
- as photos (`digit_photos.py`): with a pen, a pencil or chalk, on paper that fills the frame or lies on a table.

Each goes through the app's own preparation and a published model. "Sure" are those that the app would name without a
doubt, with what the model's file states of when it abstains. Then two digits side by side, which should be called
several or leave the model unsure, and sheets without a digit, which should be called blank.

Parameters of the preparation were chosen with `--split train`; the figures to quote are those of `--split test`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from digit_photos import KINDS, PHOTOS, Kind, photo_of
from PIL import Image
from strokes import Strokes, draw, jitter, strokes_of

from serve.app.verdict import Tone, verdict
from serve.engine.familiarity import Familiarity, parse
from serve.images.digits import Digit
from serve.images.photos import prepare
from serve.images.strokes import Stroke, prepare_strokes

CANVAS = 280
SMALLEST = 3.5  # a digit is at least so many brush widths long: with less, a hand cannot close a loop around its hole
SIZES = (0.1, 0.15, 0.35, 0.8)  # of drawings as strokes, in the pad's side
BRUSHES = {"thin": 8, "default": 20, "thickest": 40}
Make = Callable[[list[Strokes], np.random.Generator], Image.Image]
Prepared = tuple[Digit, float]  # and how many seconds it took


def place(strokes: Strokes, size: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """A random centre that keeps the ink on the canvas."""
    points = np.concatenate(strokes) * size
    low, high = width / 2 - points.min(axis=0), CANVAS - width / 2 - points.max(axis=0)
    return np.where(high > low, rng.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)


def drawing(strokes: list[Strokes], rng: np.random.Generator) -> Image.Image:
    """The digit drawn on the app's canvas; half of them dark on light, as the light theme has it."""
    width = rng.uniform(8, 40)
    size = rng.uniform(max(60, SMALLEST * width), CANVAS - width)
    lines = jitter(strokes[0], rng, 0.012)
    ink = draw(lines, size, place(lines, size, width, rng), width, CANVAS)
    return ink if rng.random() < 0.5 else Image.eval(ink, lambda level: 255 - level)


def touching(strokes: list[Strokes], rng: np.random.Generator) -> Image.Image:
    """Two digits drawn so close together that they are one piece of ink."""
    width = rng.uniform(8, 22)
    size = rng.uniform(max(60, 4 * width), 150)
    left = [path * size for path in jitter(strokes[0], rng, 0.012)]
    other, lift = size * rng.uniform(0.85, 1.15), np.array([0, size * rng.uniform(-0.08, 0.08)])
    right = [path * other + lift for path in jitter(strokes[1], rng, 0.012)]
    a, b = np.concatenate(left), np.concatenate(right)
    # The second one comes from the right until the lines are nearer to each other than a brush width.
    near = rng.uniform(0.2, 0.9) * width
    away = a[:, 0].max() - b[:, 0].min() + 2 * width
    while away > 0 and np.hypot(*(a[:, None] - (b + np.array([away, 0]))[None]).transpose(2, 0, 1)).min() > near:
        away -= 1
    lines = left + [path + np.array([away, 0]) for path in right]
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    shrink = min(1.0, (CANVAS - width - 4) / (high - low).max())
    return draw(lines, shrink, CANVAS / 2 - shrink * (low + high) / 2, width, CANVAS)


def digits(data_dir: Path, split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    (path,) = sorted((data_dir / "mnist" / "mnist").glob(f"{split}-*.parquet"))
    table = pq.read_table(path)
    chosen = np.random.default_rng(seed).permutation(table.num_rows)[:count]
    rows = table.take(chosen)
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows["image"].to_pylist()]
    return np.stack(images), np.array(rows["label"].to_pylist())


def best_model(folder: Path) -> Path:
    """The ONNX file of the MNIST model with the best published test accuracy."""
    ready = [path for path in folder.glob("*.mnist/metrics.json") if path.with_name("model.onnx").exists()]
    if not ready:
        sys.exit(
            f"No folder of {folder}/*.mnist holds metrics.json and model.onnx; `python train/export.py` builds them."
        )
    return max(ready, key=lambda path: json.loads(path.read_text())["test_accuracy"]).with_name("model.onnx")


def on_pad(strokes: Strokes, size: float, brush: float, rng: np.random.Generator) -> list[Stroke]:
    """A digit as the drawing pad sends it: its strokes, with fewer points where a hand is faster."""
    lines = jitter(strokes, rng, 0.012)
    points = np.concatenate(lines) * size
    low, high = -points.min(axis=0), 1 - points.max(axis=0)
    centre = np.where(high > low, rng.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)
    every = (
        max(1, round((0.004 + 0.02 * size) / (np.hypot(*np.diff(lines[0][:2], axis=0)[0]) * size)))
        if len(lines[0]) > 1
        else 1
    )
    thinned = [np.concatenate([line[:-1:every], line[-1:]]) for line in lines]
    return [Stroke(brush / CANVAS, np.round(line * size + centre, 4).astype(np.float32)) for line in thinned]


def timed(make: Callable[[], Digit]) -> Prepared:
    start = time.thread_time()
    digit = make()
    return digit, time.thread_time() - start


def single(strokes: list[Strokes], seed: int) -> Iterator[tuple[str, Iterator[tuple[Image.Image | None, Prepared]]]]:
    """The rows of single digits: their name, and the inputs with what the app makes of them."""

    def images(
        make: Callable[[Strokes, np.random.Generator], Image.Image], row: int
    ) -> Iterator[tuple[Image.Image, Prepared]]:
        rng = np.random.default_rng([seed, row])
        for one in strokes:
            image = make([one], rng)
            image.load()
            yield image, timed(partial(prepare, image))

    def pads(size: float, brush: float) -> Iterator[tuple[None, Prepared]]:
        rng = np.random.default_rng(seed)
        for one in strokes:
            lines = on_pad(one, size, brush, rng)
            yield None, timed(partial(prepare_strokes, lines))

    yield "drawings as images", images(drawing, 0)
    for size in SIZES:
        for name, brush in BRUSHES.items():
            yield f"strokes, {100 * size:.0f} % of the pad, {name} brush", pads(size, brush)
    for row, (name, photo) in enumerate(PHOTOS.items(), 1):
        yield f"photos: {name}", images(photo, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ZOO_DATA_DIR", "train/samples"))
    parser.add_argument("--models", type=Path, default=Path("model_cards"))
    parser.add_argument("--model", help="a folder of --models or an .onnx file; default: the best published for MNIST")
    parser.add_argument("--split", choices=["train", "test"], default="test")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", default=[""], metavar="WORD", help="only rows whose name has one of these")
    parser.add_argument("--wrong", type=Path, help="save the images that it gets wrong in this folder")
    arguments = parser.parse_args()

    if arguments.model is None:
        path = best_model(arguments.models)
    else:
        path = Path(arguments.model)
        path = path if path.suffix == ".onnx" else arguments.models / arguments.model / "model.onnx"
    network = Network.of(path)
    images, labels = digits(arguments.data_dir, arguments.split, arguments.count, arguments.seed)
    strokes = [strokes_of(image) for image in images]
    print(f"{path}, {len(images)} digits of the {arguments.split} split, seed {arguments.seed}\n")
    heads = [
        "row",
        "right",
        "right and sure",
        "wrong and sure",
        "none that it knows",
        "no digit",
        "called several or scribble",
    ]
    print(f"| {' | '.join(heads)} | CPU ms at the median |\n|{'---|' * (len(heads) + 1)}")
    for name, made in single(strokes, arguments.seed):
        if any(word in name for word in arguments.rows):
            rate(network, name, made, labels, arguments.wrong)
    print("\n| row | called several | any other doubt |\n|---|---|---|")
    pairs: dict[str, Make] = {
        "two digits that touch, drawn": touching,
        "two digits on a sheet": partial(photo_of, Kind()),
    }
    others = np.random.default_rng(arguments.seed).permutation(len(strokes))
    for name, make in pairs.items():
        if any(word in name for word in arguments.rows):
            rng = np.random.default_rng(arguments.seed)
            found = [prepare(make([strokes[i], strokes[j]], rng)) for i, j in enumerate(others)]
            several = sum(digit.problem == "several" for digit in found)
            doubt = sum(network.read(digit)[1] != "sure" for digit in found)
            print(f"| {name} | {100 * several / len(found):.1f} % | {100 * (doubt - several) / len(found):.1f} % |")
    if any(word in "empty sheets" for word in arguments.rows):
        rng = np.random.default_rng(arguments.seed)
        kinds = list(KINDS.values())
        found = [prepare(photo_of(kinds[i % len(kinds)], [], rng)) for i in range(len(strokes))]
        print(f"\nempty sheets: {100 * np.mean([digit.problem == 'blank' for digit in found]):.1f} % called blank")
    bare = network.session.run(["logits"], {"image": images[..., None]})[0].argmax(1)
    print(f"\nthe same digits as they are in MNIST: {100 * np.mean(bare == labels):.1f} % right")


@dataclass(frozen=True)
class Network:
    """A model, and what its file states of when it abstains."""

    session: onnxruntime.InferenceSession
    abstain_below: float | None
    familiarity: Familiarity | None

    @classmethod
    def of(cls, path: Path) -> Network:
        """Open an ONNX file."""
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        stated = session.get_modelmeta().custom_metadata_map
        near = parse(stated["familiarity"], 10) if "familiarity" in stated else None
        return cls(session, float(stated["abstain_below"]) if "abstain_below" in stated else None, near)

    def read(self, digit: Digit) -> tuple[int, Tone]:
        """The most probable digit and the app's verdict on it; -1 and "none" if there is no digit."""
        if digit.pixels is None:
            return -1, "none"
        logits, shares = self.session.run(["logits", "probabilities"], {"image": digit.pixels[None]})
        near = None if self.familiarity is None else bool(self.familiarity.familiar(logits)[0])
        said = verdict(shares[0], self.abstain_below, fits=digit.problem is None, familiar=near)
        return int(shares[0].argmax()), said.tone


def rate(
    network: Network,
    name: str,
    made: Iterator[tuple[Image.Image | None, Prepared]],
    labels: np.ndarray,
    wrong: Path | None,
) -> None:
    """Print a row of the table; save the images that are read wrong in the folder `wrong`."""
    right = named = unknown = sure = blank = flagged = 0
    seconds = []
    for i, ((image, (digit, took)), label) in enumerate(zip(made, labels, strict=True)):
        seconds.append(took)
        guess, tone = network.read(digit)
        right += guess == label
        blank += guess < 0
        flagged += guess >= 0 and digit.problem is not None
        named += guess == label and tone == "sure"
        unknown += guess >= 0 and digit.problem is None and tone == "none"
        sure += guess != label and tone == "sure"
        if wrong and guess != label and image is not None:
            save(wrong, f"{name}-{i}-is{label}-said{guess}", image, digit)
    counts = " | ".join(f"{100 * count / len(labels):.1f} %" for count in (right, named, sure, unknown, blank, flagged))
    print(f"| {name} | {counts} | {1e3 * np.median(seconds):.1f} |", flush=True)


def save(folder: Path, name: str, image: Image.Image, digit: Digit) -> None:
    """Save an input, and beside it what the model sees."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name.replace("%", "pc").replace(" ", "_").replace(":", "").replace(",", "")
    image.save(folder / f"{name}.png")
    if digit.pixels is not None:
        seen = Image.fromarray(digit.pixels[..., 0]).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
        seen.save(folder / f"{name}-seen.png")


if __name__ == "__main__":
    main()
