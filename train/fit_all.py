"""Train all that is missing: `python train/fit_all.py`, six networks on two datasets, one run after the other.

Runs that are complete are left alone, those that were cut off are resumed, and a run that fails does not stop the
others. Each is `fit.py` in a process of its own; what follows `--` is handed on to all of them:

    python train/fit_all.py --jobs 4 --seeds 0 1 2 -- --epochs 60
"""

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from train import data, interrupt, models, recipes

FIT = Path(__file__).resolve().parent / "fit.py"
SECONDS_BETWEEN_REPORTS = 60
# What an epoch of each costs beside the others (seconds on two cores of an EPYC), to guess at runs not yet begun: cheap
# ones come first, so that there is something to publish early.
COST = {
    "vanilla_resnet18": 33,
    "vanilla_googlenet": 34,
    "improved_googlenet": 90,
    "improved_resnet18": 100,
    "vanilla_vgg16": 150,
    "improved_vgg16": 700,
}


@dataclass
class Run:
    """A run that is to be done, and its process while it is under way."""

    model: str
    dataset: str
    recipe: str
    seed: int
    folder: Path
    epochs: int
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    failed: bool = False

    @property
    def complete(self) -> bool:
        """Whether it is done, and has the epochs that are asked for: `fit.py` says so itself of one that has others."""
        metrics = self.folder / "metrics.json"
        return metrics.is_file() and json.loads(metrics.read_text())["epochs"] == self.epochs

    @property
    def rows(self) -> list[dict[str, str]]:
        """The epochs done so far, as in `log.csv`."""
        try:
            with (self.folder / "log.csv").open() as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    def cost_left(self) -> float:
        """In the unit of `COST`."""
        return 0 if self.complete or self.failed else (self.epochs - len(self.rows)) * COST.get(self.model, 100)

    def __str__(self) -> str:
        return self.folder.name


def runs(args: argparse.Namespace) -> list[Run]:
    """All that is asked for, the cheap ones first."""
    epochs = argparse.ArgumentParser(add_help=False)
    epochs.add_argument("--epochs", type=int)
    given = epochs.parse_known_args(args.fit)[0].epochs
    return [
        Run(
            model,
            dataset,
            args.recipe,
            seed,
            args.runs_dir / f"{model}.{dataset}.{args.recipe}.seed{seed}",
            given or recipes.get(args.recipe, model, dataset).epochs,
        )
        for seed in args.seeds
        for model in sorted(args.models, key=lambda name: COST.get(name, 0))
        for dataset in args.datasets
    ]


def start(run: Run, args: argparse.Namespace) -> None:
    """Begin a run, or go on with it; what it prints goes to `<run folder>.log`."""
    command = [*shlex.split(args.launcher), str(FIT), "--model", run.model, "--dataset", run.dataset]
    command += ["--recipe", run.recipe, "--seed", str(run.seed), "--output-dir", str(run.folder), "--resume", *args.fit]
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    args.runs_dir.mkdir(parents=True, exist_ok=True)
    run.log = (run.folder.parent / f"{run}.log").open("ab")
    # A session of its own: Ctrl-C reaches this script alone, which then ends its runs in good order.
    run.process = subprocess.Popen(
        command,
        stdout=run.log,
        stderr=subprocess.STDOUT,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        start_new_session=True,
    )


def end(run: Run) -> None:
    """Take note of how a process ended."""
    assert run.process is not None
    assert run.log is not None
    run.log.close()
    run.failed = not run.complete
    if run.failed:
        log = run.folder.parent / f"{run}.log"
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        print(f"{run} FAILED with status {run.process.returncode}: {''.join(last)} (all of it: {log})", flush=True)
    else:
        accuracy = json.loads((run.folder / "metrics.json").read_text())["test_accuracy"]
        print(f"{run} is done: test accuracy {accuracy:.2f} %", flush=True)
    run.process = None


def report(todo: list[Run], done_cost: float, seconds: float) -> Iterator[str]:
    """A line for each run under way, and how long is left in all."""
    for run in todo:
        if run.process is not None:
            rows = run.rows
            latest = f", validation accuracy {float(rows[-1]['validation_accuracy']):.2f} %" if rows else ""
            yield f"{run}: {len(rows)} of {run.epochs} epochs{latest}"
    left = sum(run.cost_left() for run in todo)
    remaining = sum(run.cost_left() > 0 for run in todo)
    if done_cost > 0:
        yield f"{remaining} runs left, about {left / (done_cost / seconds) / 3600:.1f} h"
    else:
        yield f"{remaining} runs left"


def work(todo: list[Run], args: argparse.Namespace) -> bool:
    """Do all runs, `args.jobs` at a time; False where one failed or a signal came."""
    waiting = [run for run in todo if not run.complete]
    print(f"{len(todo) - len(waiting)} of {len(todo)} runs are complete", flush=True)
    at_start, began, told = sum(run.cost_left() for run in waiting), time.monotonic(), time.monotonic()
    queue = list(waiting)
    with interrupt.on_signals() as stop:
        while not stop.requested and (queue or any(run.process for run in waiting)):
            while queue and sum(run.process is not None for run in waiting) < args.jobs:
                run = queue.pop(0)
                print(f"{run} goes on" if run.rows else f"{run} begins", flush=True)
                start(run, args)
            time.sleep(0.5)
            for run in waiting:
                if run.process is not None and run.process.poll() is not None:
                    end(run)
            if time.monotonic() - told > SECONDS_BETWEEN_REPORTS:
                told = time.monotonic()
                failed = sum((run.epochs - len(run.rows)) * COST.get(run.model, 100) for run in waiting if run.failed)
                done = at_start - failed - sum(run.cost_left() for run in waiting)
                print("\n".join(report(waiting, done, told - began)), flush=True)
    for run in waiting:  # after a signal: they save first
        if run.process is not None:
            os.killpg(run.process.pid, signal.SIGTERM)
    for run in waiting:
        if run.process is not None:
            run.process.wait()
            while _alive(run.process.pid):  # the launcher ends before what it launched has saved
                time.sleep(0.1)
            print(f"{run} is stopped, its state saved: the same command goes on with it", flush=True)
    return not stop.requested and not any(run.failed for run in waiting)


def _alive(group: int) -> bool:
    """Whether a process group has a process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when every run is complete, 1 when one failed or a signal came, 2 for arguments."""
    parser = argparse.ArgumentParser(
        prog="python train/fit_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(models.ZOO), choices=models.ZOO, metavar="NAME")
    parser.add_argument("--datasets", nargs="+", default=list(data.HUB_IDS), choices=list(data.HUB_IDS))
    parser.add_argument("--recipe", default="fast", choices=recipes.RECIPES, help="default: fast")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="default: 0")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side; default: 1")
    parser.add_argument(
        "--launcher",
        default=f"{shlex.quote(sys.executable)} -m accelerate.commands.launch --quiet --num_processes 1",
        help="what starts fit.py; default: accelerate launch --quiet --num_processes 1",
    )
    parser.add_argument("fit", nargs="*", metavar="-- ...", help="more arguments for fit.py")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    todo = runs(args)
    return 0 if work(todo, args) else 1


if __name__ == "__main__":
    sys.exit(main())
