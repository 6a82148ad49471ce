"""The queue of `train/fit_all.py` and `train/ablate.py`: runs, each a process of its own, so many at a time."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from train import records
from train.errors import UserError
from train.records import RunMetrics
from train.training import recipes
from train.training.runs import epoch_log, interrupt
from train.training.runs import run_folder as run_folders
from train.training.runs.cores import usable_cores

SECONDS_BETWEEN_REPORTS = 60
# Time for a run to save and end: a validation of improved_vgg16, slow beside other runs, may have to end first.
SECONDS_TO_STOP = 300
# Seconds for an epoch of each network on two cores of an EPYC. They only estimate the time left and put the cheap runs
# first, so that there is something to publish early.
COST = {
    "vanilla_resnet18": 33,
    "vanilla_googlenet": 34,
    "improved_googlenet": 90,
    "improved_resnet18": 100,
    "vanilla_vgg16": 150,
    "improved_vgg16": 700,
}
COST_OF_OTHERS = 100


@dataclass
class Run:
    """A run that is to be done, and its process while it is under way.

    Attributes:
        arguments: of its command, beside those that the other fields give.
    """

    model: str
    dataset: str
    recipe: str
    seed: int
    folder: Path
    epochs: int
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    failed: bool = False

    @property
    def log(self) -> Path:
        """The file for all that it prints."""
        return self.folder.parent / f"{self}.log"

    @property
    def metrics(self) -> RunMetrics | None:
        """Its metrics, where it is complete and has the epochs that are asked for.

        None for a run of another number of epochs, which `fit.py` refuses to resume.
        """
        try:
            metrics = records.read(RunMetrics, self.folder / "metrics.json")
        except UserError:  # missing, or damaged
            return None
        return metrics if metrics.epochs == self.epochs else None

    @property
    def rows(self) -> list[dict[str, float]]:
        """The rows of `log.csv`: the epochs done so far."""
        try:
            return epoch_log.read(self.folder / "log.csv")
        except (OSError, ValueError, TypeError):  # missing, or damaged
            return []

    def cost_left(self) -> float:
        """Estimate the cost of the epochs that are not done, in the unit of `COST`."""
        return (self.epochs - len(self.rows)) * cost(self.model)

    def __str__(self) -> str:
        return self.folder.name


def cost(model: str) -> int:
    """Return the cost of an epoch of a network, in the unit of `COST`."""
    return COST.get(model, COST_OF_OTHERS)


def runs(
    models: Sequence[str], datasets: Sequence[str], seeds: Sequence[int], recipe: str, folder: Path, epochs: int | None
) -> list[Run]:
    """List the runs: one seed after the other, the cheap networks first, each run once.

    Args:
        models: names in `zoo.catalog.NETWORKS`.
        datasets: names in `zoo.catalog.DATASETS`.
        seeds: of the runs.
        recipe: in `recipes.RECIPES`.
        folder: that holds the run folders.
        epochs: in place of the recipe's.
    """
    return [
        Run(
            model,
            dataset,
            recipe,
            seed,
            folder / run_folders.name(f"{model}.{dataset}", recipe, seed),
            epochs or recipes.get(recipe, model, dataset).epochs,
        )
        for seed in dict.fromkeys(seeds)
        for model in sorted(dict.fromkeys(models), key=cost)
        for dataset in dict.fromkeys(datasets)
    ]


def work(
    todo: list[Run],
    jobs: int,
    command: list[str],
    more: list[str],
    completed: Callable[[Run], None] = lambda _run: None,
) -> bool:
    """Do all runs that are not complete, `jobs` at a time; False where one failed or a signal came.

    Args:
        todo: from `runs`.
        jobs: how many run side by side.
        command: that starts `fit.py`, or takes its arguments.
        more: arguments of `command` for all runs.
        completed: called with each run that has just been completed.
    """
    waiting = [run for run in todo if run.metrics is None]
    print(f"{len(todo) - len(waiting)} of {len(todo)} runs are complete", flush=True)
    at_start, began, told = sum(run.cost_left() for run in waiting), time.monotonic(), time.monotonic()
    queue = list(waiting)
    with interrupt.on_signals() as signals:
        try:
            while not signals.requested and (queue or any(run.process for run in waiting)):
                while queue and sum(run.process is not None for run in waiting) < jobs:
                    start(queue.pop(0), jobs, command, more)
                time.sleep(0.5)
                for run in waiting:
                    if run.process is not None and run.process.poll() is not None:
                        end(run)
                        if not run.failed:
                            completed(run)
                if time.monotonic() - told > SECONDS_BETWEEN_REPORTS:
                    told = time.monotonic()
                    done = at_start - sum(run.cost_left() for run in waiting)
                    print("\n".join(report(waiting, done, told - began)), flush=True)
        finally:  # after an error too: nobody would notice the runs that continue
            stop([run for run in waiting if run.process is not None])
    return not signals.requested and not any(run.failed for run in waiting)


def start(run: Run, jobs: int, command: list[str], more: list[str]) -> None:
    """Start a run, or resume it; where that is not possible, the run has failed."""
    print(f"{run} goes on" if run.rows else f"{run} begins", flush=True)
    words = [*command, "--model", run.model, "--dataset", run.dataset, "--recipe", run.recipe]
    words += ["--seed", str(run.seed), "--output-dir", str(run.folder), "--resume", *run.arguments, *more]
    threads = str(max(1, usable_cores() // jobs))
    try:
        with run.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops its runs in good order.
            run.process = subprocess.Popen(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": threads, **os.environ},
                start_new_session=True,
            )
    except OSError as error:  # a full disk, for example
        run.failed = True
        print(f"{run} FAILED to start: {error}", flush=True)


def end(run: Run) -> None:
    """Tell how a run ended."""
    assert run.process is not None
    status, run.process = run.process.returncode, None
    metrics = run.metrics
    run.failed = metrics is None
    if metrics is None:
        last = [line for line in run.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        print(f"{run} FAILED with status {status}: {''.join(last)} (all of it: {run.log})", flush=True)
    else:
        print(f"{run} is done: test accuracy {metrics.test_accuracy:.2f} %", flush=True)


def stop(under_way: list[Run]) -> None:
    """Tell runs to save and end, and kill those that have not ended in time."""
    for run in under_way:
        _signal(run, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS_TO_STOP
    for run in under_way:
        if _ended(run, deadline):
            state = "stopped, its state saved"
        else:
            _signal(run, signal.SIGKILL)
            state = f"killed after {SECONDS_TO_STOP} s, its last state kept"
        print(f"{run} is {state}: the same command goes on with it", flush=True)


def _ended(run: Run, deadline: float) -> bool:
    """Wait for the end of a run until a time of `time.monotonic`; False where it goes on."""
    assert run.process is not None
    try:
        run.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    # The launcher may end before the process that it launched, which has the run folder until it has saved.
    return run_folders.becomes_free(run.folder, max(0.0, deadline - time.monotonic()))


def _signal(run: Run, number: int) -> None:
    """Send a signal to all processes of a run."""
    assert run.process is not None
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


def report(todo: list[Run], done_cost: float, seconds: float) -> Iterator[str]:
    """Yield a line for each run under way, and how long all runs still take."""
    for run in todo:
        if run.process is not None:
            rows = run.rows
            latest = f", validation accuracy {rows[-1]['validation_accuracy']:.2f} %" if rows else ""
            yield f"{run}: {len(rows)} of {run.epochs} epochs{latest}"
    left = [run for run in todo if run.metrics is None and not run.failed]
    cost = sum(run.cost_left() for run in left)
    about = f", about {cost / (done_cost / seconds) / 3600:.1f} h" if done_cost > 0 else ""
    yield f"{len(left)} runs left{about}"
