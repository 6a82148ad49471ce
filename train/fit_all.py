"""Train all that is missing: `python train/fit_all.py`, six networks on two datasets, one run after the other.

Runs that are complete are left alone, those that were cut off are resumed, and a run that fails does not stop the
others. Each is `fit.py` in a process of its own; what follows `--` is handed on to all of them:

    python train/fit_all.py --jobs 4 --seeds 0 1 2 -- --epochs 60
"""

import argparse
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from train.errors import UserError
from train.files import read_json
from train.training import epoch_log, interrupt, recipes
from train.training import run_folder as run_folders
from zoo.catalog import DATASETS, NETWORKS

FIT = Path(__file__).resolve().parent / "fit.py"
SECONDS_BETWEEN_REPORTS = 60
# That runs have to save and end: a validation of improved_vgg16, slow beside others, may have to end first.
SECONDS_TO_STOP = 300
PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
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
    failed: bool = False

    @property
    def log(self) -> Path:
        """Where all that it prints goes."""
        return self.folder.parent / f"{self}.log"

    @property
    def complete(self) -> bool:
        """Whether it is done, and has the epochs that are asked for: `fit.py` says so itself of one that has others."""
        try:
            return read_json(self.folder / "metrics.json").get("epochs") == self.epochs
        except UserError:  # missing, or damaged
            return False

    @property
    def rows(self) -> list[dict[str, float]]:
        """The epochs done so far, as in `log.csv`."""
        try:
            return epoch_log.read(self.folder / "log.csv")
        except (OSError, ValueError, TypeError):  # missing, or damaged
            return []

    def cost_left(self) -> float:
        """Of the epochs not yet done, in the unit of `COST`."""
        return (self.epochs - len(self.rows)) * COST[self.model]

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
            args.runs_dir / run_folders.name(f"{model}.{dataset}", args.recipe, seed),
            given or recipes.get(args.recipe, model, dataset).epochs,
        )
        for seed in dict.fromkeys(args.seeds)
        for model in sorted(set(args.models), key=lambda name: COST[name])
        for dataset in dict.fromkeys(args.datasets)
    ]


def start(run: Run, args: argparse.Namespace) -> None:
    """Begin a run, or go on with it; where that cannot be done, it has failed."""
    print(f"{run} goes on" if run.rows else f"{run} begins", flush=True)
    command = [*args.launcher, str(FIT), "--model", run.model, "--dataset", run.dataset]
    command += ["--recipe", run.recipe, "--seed", str(run.seed), "--output-dir", str(run.folder), "--resume", *args.fit]
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    try:
        with run.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches this script alone, which then ends its runs in good order.
            run.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": threads, **os.environ},
                start_new_session=True,
            )
    except OSError as error:  # a full disk, say
        run.failed = True
        print(f"{run} FAILED to start: {error}", flush=True)


def end(run: Run) -> None:
    """Take note of how a process ended."""
    assert run.process is not None
    status, run.process = run.process.returncode, None
    run.failed = not run.complete
    if run.failed:
        last = [line for line in run.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        print(f"{run} FAILED with status {status}: {''.join(last)} (all of it: {run.log})", flush=True)
    else:
        accuracy = read_json(run.folder / "metrics.json")["test_accuracy"]
        print(f"{run} is done: test accuracy {accuracy:.2f} %", flush=True)


def stop(under_way: list[Run]) -> None:
    """Have runs save and end; kill those that do not in time."""
    if sys.platform == "linux":
        # The launcher ends before what it launched has saved. That becomes a child of this process, for `_alive` to
        # reap: the first process of a container may leave it a zombie.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for run in under_way:
        _signal(run, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS_TO_STOP
    while (late := [run for run in under_way if _alive(run)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for run in late:
        _signal(run, signal.SIGKILL)
    for run in under_way:
        state = f"killed after {SECONDS_TO_STOP} s, its last state kept" if run in late else "stopped, its state saved"
        print(f"{run} is {state}: the same command goes on with it", flush=True)


def _alive(run: Run) -> bool:
    """Whether a process of the run is left; those that have ended are reaped, for zombies take signals too."""
    assert run.process is not None
    with suppress(ChildProcessError):
        while os.waitpid(-run.process.pid, os.WNOHANG) != (0, 0):
            pass
    run.process.poll()  # else Popen would not know that its process is reaped
    return _signal(run, 0)


def _signal(run: Run, number: int) -> bool:
    """Send a signal to all processes of a run; False where none is left."""
    assert run.process is not None
    try:
        os.killpg(run.process.pid, number)
    except ProcessLookupError:
        return False
    return True


def report(todo: list[Run], done_cost: float, seconds: float) -> Iterator[str]:
    """A line for each run under way, and how long is left in all."""
    for run in todo:
        if run.process is not None:
            rows = run.rows
            latest = f", validation accuracy {rows[-1]['validation_accuracy']:.2f} %" if rows else ""
            yield f"{run}: {len(rows)} of {run.epochs} epochs{latest}"
    left = [run for run in todo if not (run.complete or run.failed)]
    cost = sum(run.cost_left() for run in left)
    about = f", about {cost / (done_cost / seconds) / 3600:.1f} h" if done_cost > 0 else ""
    yield f"{len(left)} runs left{about}"


def work(todo: list[Run], args: argparse.Namespace) -> bool:
    """Do all runs, `args.jobs` at a time; False where one failed or a signal came."""
    waiting = [run for run in todo if not run.complete]
    print(f"{len(todo) - len(waiting)} of {len(todo)} runs are complete", flush=True)
    at_start, began, told = sum(run.cost_left() for run in waiting), time.monotonic(), time.monotonic()
    queue = list(waiting)
    with interrupt.on_signals() as signals:
        try:
            while not signals.requested and (queue or any(run.process for run in waiting)):
                while queue and sum(run.process is not None for run in waiting) < args.jobs:
                    start(queue.pop(0), args)
                time.sleep(0.5)
                for run in waiting:
                    if run.process is not None and run.process.poll() is not None:
                        end(run)
                if time.monotonic() - told > SECONDS_BETWEEN_REPORTS:
                    told = time.monotonic()
                    done = at_start - sum(run.cost_left() for run in waiting)
                    print("\n".join(report(waiting, done, told - began)), flush=True)
        finally:  # after an error too: nobody would see the trainings that go on
            if under_way := [run for run in waiting if run.process is not None]:
                stop(under_way)
    return not signals.requested and not any(run.failed for run in waiting)


def launcher(text: str) -> list[str]:
    """The words of a command that can be started.

    Raises:
        ArgumentTypeError: there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise argparse.ArgumentTypeError(f"{text!r}: no such command")
    return words


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when every run is complete, 1 when one failed or a signal came, 2 for arguments."""
    parser = argparse.ArgumentParser(
        prog="python train/fit_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--recipe", default="fast", choices=recipes.RECIPES, help="default: fast")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="default: 0")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side; default: 1")
    parser.add_argument(
        "--launcher",
        type=launcher,
        default=f"{shlex.quote(sys.executable)} -m accelerate.commands.launch --quiet --num_processes 1",
        help="what starts fit.py; default: accelerate launch --quiet --num_processes 1",
    )
    parser.add_argument("fit", nargs="*", metavar="-- ...", help="more arguments for fit.py")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    try:
        args.runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--runs-dir {args.runs_dir}: no folder can be made there ({error.strerror})")
    try:
        return 0 if work(runs(args), args) else 1
    except OSError as error:  # what it prints goes to a full disk, say
        print(f"fit_all.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
