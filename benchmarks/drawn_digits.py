"""How many drawn and photographed digits does the app get right?

    python benchmarks/drawn_digits.py --data-dir DATA [--model NAME] [--count 500] [--split test]

MNIST digits are thinned to their strokes and drawn again as a hand would draw them in the app: a brush of 8 to 40 px on
a 280 px canvas, any place, any size from `SMALLEST` brush widths up to the whole canvas, the line jittered. The photos
are the same strokes with a pen on tinted paper: uneven light, a shadow, blur, noise, turned by up to 15 degrees, JPEG.
Each goes through the app's own preparation and a published model. Last, two digits side by side, whose lines touch or
overlap a little: the app should say that it is unsure.

Parameters of the preparation were chosen with `--split train`; the figures to quote are those of `--split test`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter
from skimage.morphology import skeletonize

from serve.app.verdict import verdict
from serve.images.digits import prepare

CANVAS = 280
SMALLEST = 3.5  # a digit is at least so many brush widths long: with less, a hand cannot close a loop around its hole
Strokes = list[np.ndarray]


def strokes_of(digit: np.ndarray) -> Strokes:
    """Centre lines of uint8 [28, 28] as polylines of (x, y), in a box from -0.5 to 0.5 on its longest side."""
    large = np.asarray(Image.fromarray(digit).resize((140, 140), Image.Resampling.BICUBIC))
    line = skeletonize(large > 110)
    lines = [smooth(path) for path in trace(line)]
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1.0)
    return [(path - (low + high) / 2) / span for path in lines]


def trace(line: np.ndarray) -> list[np.ndarray]:
    """Walk a one-pixel line: from ends first, then what is left of loops, until every pixel has been passed."""
    left = {(int(x), int(y)) for y, x in np.argwhere(line)}
    everything = set(left)
    around = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]

    def near(point: tuple[int, int], pool: set[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(point[0] + dx, point[1] + dy) for dx, dy in around if (point[0] + dx, point[1] + dy) in pool]

    paths = []
    while left:
        start = min(left, key=lambda point: (len(near(point, left)), point))
        # Begin and end on pixels that were already passed, so that branches stay joined.
        path = near(start, everything - left)[:1]
        point = start
        while True:
            path.append(point)
            left.discard(point)
            following = near(point, left)
            if not following:
                path.extend(near(point, everything - left - set(path[-3:]))[:1])
                break
            point = following[0]
        paths.append(np.array(path, float))
    return paths


def smooth(path: np.ndarray) -> np.ndarray:
    """A polyline without its pixel steps."""
    if len(path) < 7:
        return path
    padded = np.concatenate([path[:1].repeat(2, 0), path, path[-1:].repeat(2, 0)])
    return np.stack([np.convolve(padded[:, axis], np.ones(5) / 5, mode="valid") for axis in (0, 1)], axis=1)


def jitter(strokes: Strokes, rng: np.random.Generator, amount: float) -> Strokes:
    """A hand's unsteadiness: slow waves along each stroke, `amount` of the digit's size in standard deviation."""
    shaken = []
    for path in strokes:
        along = np.linspace(0, 1, len(path))[:, None]
        wave = sum(
            rng.normal(size=2) * np.sin(2 * np.pi * (k * along + rng.random(2))) / np.sqrt(k) for k in (0.5, 1, 2, 3)
        )
        shaken.append(path + amount * wave)
    return shaken


def draw(strokes: Strokes, size: float, centre: np.ndarray, width: float, canvas: int, *, over: int = 3) -> Image.Image:
    """White ink on black, antialiased, with a round brush."""
    picture = Image.new("L", (canvas * over, canvas * over))
    pen = ImageDraw.Draw(picture)
    radius = width * over / 2
    for path in strokes:
        points = (path * size + centre) * over
        pen.line([tuple(p) for p in points], fill=255, width=max(1, round(width * over)))
        for x, y in points:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return picture.resize((canvas, canvas), Image.Resampling.BOX)


def place(strokes: Strokes, size: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """A random centre that keeps the ink on the canvas."""
    points = np.concatenate(strokes) * size
    low, high = width / 2 - points.min(axis=0), CANVAS - width / 2 - points.max(axis=0)
    return np.where(high > low, rng.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)


def drawing(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The digit drawn on the app's canvas; half of them dark on light, as the light theme has it."""
    width = rng.uniform(8, 40)
    size = rng.uniform(max(60, SMALLEST * width), CANVAS - width)
    strokes = jitter(strokes_of(digit), rng, 0.012)
    ink = draw(strokes, size, place(strokes, size, width, rng), width, CANVAS)
    return ink if rng.random() < 0.5 else Image.eval(ink, lambda level: 255 - level)


def photo(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The digit with a pen on paper, photographed."""
    side = 480
    size = rng.uniform(0.25, 0.75) * side
    width = rng.uniform(0.03, 0.12) * size
    strokes = jitter(strokes_of(digit), rng, 0.012)
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    strokes = [path @ turn for path in strokes]
    room = (side - size * 1.1 - width) / 2
    centre = side / 2 + rng.uniform(-room, room, 2)
    ink = np.asarray(draw(strokes, size, centre, width, side, over=2), float)[..., None] / 255

    paper = rng.uniform(150, 245) * (1 + rng.uniform(-0.08, 0.08, 3))
    colour = rng.uniform(10, 90, 3) * min(1.0, paper.mean() / 200)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * x + np.sin(direction) * y
    light = 1 + rng.uniform(0, 0.3) * slope
    edge = rng.uniform(-1, 1)
    softness = rng.uniform(0.02, 0.2)
    shadow_direction = rng.uniform(0, 2 * np.pi)
    across = np.cos(shadow_direction) * x + np.sin(shadow_direction) * y
    shadow = 1 - rng.uniform(0, 0.45) / (1 + np.exp((across - edge) / softness))
    scene = (paper * (1 - ink) + colour * ink) * (light * shadow)[..., None]
    scene += rng.normal(0, rng.uniform(0, 5), scene.shape)
    picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=int(rng.integers(50, 95)))
    return Image.open(kept)


def touching(one: np.ndarray, two: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Two digits drawn so close together that they are one piece of ink."""
    width = rng.uniform(8, 22)
    size = rng.uniform(max(60, 4 * width), 150)
    left = [path * size for path in jitter(strokes_of(one), rng, 0.012)]
    other, lift = size * rng.uniform(0.85, 1.15), np.array([0, size * rng.uniform(-0.08, 0.08)])
    right = [path * other + lift for path in jitter(strokes_of(two), rng, 0.012)]
    a, b = np.concatenate(left), np.concatenate(right)
    # The second one comes from the right until the lines are nearer to each other than a brush width.
    near = rng.uniform(0.2, 0.9) * width
    away = a[:, 0].max() - b[:, 0].min() + 2 * width
    while away > 0 and np.hypot(*(a[:, None] - (b + np.array([away, 0]))[None]).transpose(2, 0, 1)).min() > near:
        away -= 1
    strokes = left + [path + np.array([away, 0]) for path in right]
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    shrink = min(1.0, (CANVAS - width - 4) / (high - low).max())
    return draw(strokes, shrink, CANVAS / 2 - shrink * (low + high) / 2, width, CANVAS)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ZOO_DATA_DIR", "train/samples"))
    parser.add_argument("--models", type=Path, default=Path("model_cards"))
    parser.add_argument("--model", help="a folder of --models or an .onnx file; default: the best published for MNIST")
    parser.add_argument("--split", choices=["train", "test"], default="test")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wrong", type=Path, help="save the inputs that it gets wrong in this folder")
    arguments = parser.parse_args()

    if arguments.model is None:
        path = best_model(arguments.models)
    else:
        path = Path(arguments.model)
        path = path if path.suffix == ".onnx" else arguments.models / arguments.model / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, labels = digits(arguments.data_dir, arguments.split, arguments.count, arguments.seed)
    print(f"{path}, {len(images)} digits of the {arguments.split} split, seed {arguments.seed}")

    kinds: dict[str, Callable[[np.ndarray, np.random.Generator], Image.Image]] = {"drawings": drawing, "photos": photo}
    for kind, make in kinds.items():
        rng = np.random.default_rng(arguments.seed)
        right = blank = flagged = 0
        seconds = []
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            picture = make(image, rng)
            start = time.perf_counter()
            digit = prepare(picture)
            seconds.append(time.perf_counter() - start)
            if digit.pixels is None:
                blank += 1
                guess = -1
            else:
                guess = int(session.run(["logits"], {"image": digit.pixels[None]})[0].argmax())
            flagged += digit.problem is not None
            right += guess == label
            if arguments.wrong and guess != label:
                arguments.wrong.mkdir(parents=True, exist_ok=True)
                picture.save(arguments.wrong / f"{kind}-{i}-is{label}-said{guess}.png")
                if digit.pixels is not None:
                    seen = Image.fromarray(digit.pixels[..., 0]).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
                    seen.save(arguments.wrong / f"{kind}-{i}-seen.png")
        print(
            f"{kind}: {100 * right / len(images):.1f} % right ({right}), {blank} without ink, {flagged} flagged, "
            f"preparation {1e3 * np.median(seconds):.1f} ms at the median"
        )
    rng = np.random.default_rng(arguments.seed)
    unsure = 0
    others = rng.permutation(len(images))
    for one, two in zip(images, images[others], strict=True):
        digit = prepare(touching(one, two, rng))
        probabilities = session.run(["probabilities"], {"image": digit.pixels[None]})[0][0]
        unsure += verdict(probabilities, fits=digit.problem is None).tone != "sure"
    print(f"touching pairs: {100 * unsure / len(images):.1f} % called unsure")
    bare = session.run(["logits"], {"image": images[..., None]})[0].argmax(1)
    print(f"the same digits as they are in MNIST: {100 * np.mean(bare == labels):.1f} % right")


if __name__ == "__main__":
    main()
