"""Measure images per second of the training loop against the bare training step and timm's train.py.

`python benchmarks/training.py [--timm CHECKOUT]`. Everything runs in batches of 128 on one machine, in turns, so that
a change of the machine's speed affects all equally. The table gives medians, and ratios within each turn.

- The bare step is forward, backward and optimiser of the network on random data in memory, at the same size, precision
  and memory format. It is measured twice: as PyTorch runs it, and as the loop runs it, which folds VGG16 and on a CPU
  uses its own convolutions. The first ratio tells what a user gains, the second what the loop itself costs.
- The loop is `fit.py`'s with recipe `fast`, at the network's full input size and with the paper's CIFAR-10
  augmentation, which costs more than the recipe's own.
- timm's script trains resnet18 at 64x64 with its defaults and two loader workers; ours trains the same network,
  `vanilla_resnet18`. Both train on the shipped images, in a process of their own each time; the second epoch counts.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from train.data import loading
from train.onnx_export import build
from train.speed import convolution
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold
from train.training import models, recipes
from train.training.arguments import emulates_bf16
from train.training.loop import Options, Run
from train.training.objective import make_optimizer
from zoo.catalog import NETWORKS

REPOSITORY = Path(__file__).resolve().parent.parent
IMPROVED = ("improved_googlenet", "improved_resnet18", "improved_vgg16")
BATCH = 128
WARM_STEPS = 5
# Of an epoch on a GPU: the shipped images, repeated.
GPU_IMAGES = 25_000
TIMM_SIZE = 64


def create(model_name: str, size: int | None) -> nn.Module:
    """Build a network for CIFAR-10, for its own input size or another one."""
    model = models.create(model_name, "cifar10", num_classes=10, in_chans=3)
    if size is not None:
        models.pretrained_cfg(model)["input_size"] = (3, size, size)
    return model


def step(model_name: str, precision: str, steps: int, compiled: bool, as_in_the_loop: bool) -> float:
    """Measure images per second of the training step alone; the first steps do not count."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    keep_freed_memory()
    recipe = recipes.get("fast", model_name, "cifar10")
    model = create(model_name, None)
    input_size = models.pretrained_cfg(model)["input_size"]
    if as_in_the_loop:
        model = fold(model, input_size, to_train=True)
    model = model.to(device, memory_format=torch.channels_last).train()
    if compiled:
        model.compile()
    elif as_in_the_loop and device.type == "cpu":
        convolution.use_faster(model)
    optimizer = make_optimizer(model, recipe)
    x = torch.randn(BATCH, *input_size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,), device=device)
    for number in range(WARM_STEPS + steps):
        if number == WARM_STEPS:
            if device.type == "cuda":
                torch.cuda.synchronize()
            before = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(x).float(), labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return BATCH * steps / (time.perf_counter() - before)


def loop(model_name: str, precision: str, compiled: bool, size: int | None) -> float:
    """Measure images per second of `fit.py`'s loop, without the validation."""
    augmentation = recipes.get("paper", model_name, "cifar10").augmentation
    recipe = replace(
        recipes.get("fast", model_name, "cifar10"), augmentation=augmentation, epochs=2, sizes=(), learning_rate=0.01
    )
    keep_freed_memory()
    model = create(model_name, size)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    samples = loading.load("cifar10", build.SAMPLES)
    if torch.cuda.is_available():  # an epoch of them alone would be too short to measure
        samples = replace(samples, train=samples.train.take(np.arange(GPU_IMAGES) % len(samples.train)))
    with tempfile.TemporaryDirectory() as folder:
        accelerator = Accelerator(mixed_precision=precision)
        run = Run(model, samples, recipe, accelerator, Path(folder), Options(seed=0, compiled=compiled))
        run.train()
    return run.progress.rows[-1]["images_per_second"]


@contextmanager
def image_folder() -> Iterator[Path]:
    """Write the shipped CIFAR-10 training images to a folder of PNGs, as timm's script reads them."""
    from PIL import Image

    split = loading.load("cifar10", build.SAMPLES).train
    with tempfile.TemporaryDirectory() as name:
        for part in ("train", "validation"):
            for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
                if part == "validation" and i >= BATCH:
                    break
                folder = Path(name) / part / str(int(label))
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        yield Path(name)


def timm_script(checkout: Path, folder: Path) -> float:
    """Measure images per second of timm's train.py, as it prints them for its second epoch."""
    with tempfile.TemporaryDirectory() as output:
        device = "cuda" if torch.cuda.is_available() else "cpu"  # the script's default is cuda, also without a GPU
        options = f"--model resnet18 --input-size 3 {TIMM_SIZE} {TIMM_SIZE} --num-classes 10 --batch-size {BATCH}"
        options += " --workers 2 --epochs 2"
        options += f" --warmup-epochs 0 --log-interval 1 --device {device}"
        command = [sys.executable, checkout / "train.py", *options.split(), "--data-dir", folder, "--output", output]
        printed = _run(command)
    # Train: 1 [  12/14 ( 92%)]  Loss: 2.30 (2.30)  Time: 0.9s,  140.1/s  (1.0s,  126.3/s)  LR: ...: the mean so far.
    means = re.findall(r"Train: 1 \[.*?\(\s*[\d.]+s,\s*([\d.]+)/s\)", printed)
    if not means:
        raise RuntimeError(f"timm's train.py printed no images per second:\n{printed[-2000:]}")
    return float(means[-1])


def _run(command: list) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return result.stdout + result.stderr


def row(name: str, pairs: list[tuple[float, float]]) -> str:
    """Format a line of the table: medians, and the median of the turns' ratios with their range."""
    ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name} | {ours:.0f} | {other:.0f} | {statistics.median(ratios):.2f} | {spread} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/training.py", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(IMPROVED), choices=NETWORKS, metavar="MODEL")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--steps", type=int, default=12, help="of the bare step in each turn; default: 12")
    usual = "no" if emulates_bf16() else "bf16"
    parser.add_argument("--precision", choices=["bf16", "no"], default=usual, help="default here: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the network on both sides, as pays off on GPUs")
    parser.add_argument("--timm", type=Path, metavar="CHECKOUT", help="also time timm's train.py from there")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # what, and of which network, in its own process
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, model_name = args.measure
        if what == "loop":
            speed = loop(model_name, args.precision, args.compile, args.size)
        else:
            speed = step(model_name, args.precision, args.steps, args.compile, as_in_the_loop=what == "own step")
        print(f"measured {speed}")
        return 0

    def measure(what: str, model_name: str, *options: object) -> float:
        command = [sys.executable, Path(__file__).resolve(), "--steps", args.steps, "--precision", args.precision]
        command += ["--compile"] if args.compile else []
        printed = _run([*command, *options, "--measure", what, model_name])
        return float(printed.rpartition("measured ")[2].split()[0])

    threads = torch.get_num_threads()
    print(f"{threads} threads, torch {torch.__version__}, precision {args.precision}, {args.turns} turns\n")
    print("| | the loop, images/s | the other, images/s | ratio | its range |\n|---|---|---|---|---|", flush=True)
    for model_name in args.models:
        turns = [[measure(what, model_name) for what in ("loop", "step", "own step")] for _ in range(args.turns)]
        print(row(f"{model_name} against PyTorch's bare step", [(a, b) for a, b, _ in turns]), flush=True)
        print(row(f"{model_name} against the loop's own bare step", [(a, c) for a, _, c in turns]), flush=True)
    if args.timm:
        with image_folder() as folder:
            ours = ("loop", "vanilla_resnet18", "--size", TIMM_SIZE)
            pairs = [(measure(*ours), timm_script(args.timm, folder)) for _ in range(args.turns)]
        print(row("vanilla_resnet18 against timm's train.py on resnet18", pairs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
