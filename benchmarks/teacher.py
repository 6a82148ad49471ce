"""Images per second of a teacher on a CPU, its layers merged and not.

`python benchmarks/teacher.py [MODEL ...]`, of published models. Both take turns at a batch of random images of the
network's input size, in the precision that `train/fit.py` takes by itself; the table gives medians, and the median of
the ratios within each turn.
"""

import argparse
import copy
import statistics
import sys
import time
from itertools import pairwise

import torch

from train import convolution, models
from train.allocator import keep_freed_memory
from train.command_line import emulates_bf16
from train.distillation import Teacher

TAUGHT = ["improved_vgg16.cifar10", "improved_resnet18.cifar10", "improved_googlenet.cifar10"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/teacher.py", description=__doc__)
    parser.add_argument("models", nargs="*", default=TAUGHT, metavar="MODEL")
    parser.add_argument("--batch-size", type=int, default=512, help="default: 512")
    parser.add_argument("--turns", type=int, default=6, help="default: 6")
    args = parser.parse_args()
    keep_freed_memory()
    precision = "float32" if emulates_bf16() else "bf16"
    print(f"batches of {args.batch_size}, {precision}, {torch.get_num_threads()} threads, {args.turns} turns\n")
    print("| teacher | merged, images/s | as it is | ratio |\n|---|---|---|---|")
    for name in args.models:
        trained = models.load(name)
        cfg = models.pretrained_cfg(trained.model)
        own, merged = Teacher(trained.model, cfg), Teacher(copy.deepcopy(trained.model), cfg)
        merged.merge_layers()
        for teacher in (own, merged):
            teacher.to(memory_format=torch.channels_last)
            convolution.use_faster(teacher)
        x = torch.randn(args.batch_size, *cfg["input_size"]).contiguous(memory_format=torch.channels_last)
        speeds = []
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            for _ in range(1 + args.turns):
                times = [time.perf_counter()]
                for teacher in (merged, own):
                    teacher(x)
                    times.append(time.perf_counter())
                speeds.append([len(x) / (end - start) for start, end in pairwise(times)])
        merged_speed, own_speed = map(statistics.median, zip(*speeds[1:], strict=True))  # the first one warms up
        ratio = statistics.median(ours / other for ours, other in speeds[1:])
        print(f"| `{name}` | {merged_speed:.0f} | {own_speed:.0f} | {ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
