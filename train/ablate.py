"""Train with each change of the paper alone, and left out: `python train/ablate.py --model NAME --dataset NAME`.

From the vanilla network and recipe of the paper to the improved ones, each change is added alone to the vanilla ones,
and left out of the improved ones. `--epochs` scales the schedule. The results are kept in docs/report/ablation, where
`python train/report.py` finds them; runs on other images than the complete dataset keep theirs in the folder of the
runs. What is done is not done again, and a run that was cut off is resumed. What follows `--` is for train/fit.py:

    python train/ablate.py --model improved_resnet18 --dataset cifar10 --epochs 10 --jobs 2 -- --mixed-precision bf16
"""

import argparse
import sys
from pathlib import Path

from train import records
from train.errors import UserError
from train.paper import ablation
from train.paper.ablation import Variant
from train.records import Ablation, RunMetrics
from train.training import recipes
from train.training.runs import queue_options, run_queue
from train.training.runs.run_queue import Run

FIT = Path(__file__).resolve().parent / "fit.py"


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 when every run is complete, 1 when one failed or a signal came, 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python train/ablate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="improved_vgg16, _resnet18 or _googlenet")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="mnist or cifar10")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the recipe's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="default: 0")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="default: all, as vanilla+stem or improved-stem")
    queue_options.add(parser)
    args = parser.parse_args(argv)
    queue_options.check(parser, args)
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs {args.epochs}: must be at least 1")
    try:
        return 0 if ablate(args) else 1
    except UserError as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 1


def ablate(args: argparse.Namespace) -> bool:
    """Train what is missing and record it; False where a run failed or a signal came.

    Raises:
        UserError: the arguments are wrong, or recorded results are damaged.
    """
    model, dataset = args.model, args.dataset
    names = args.variants or [variant.name for variant in ablation.variants(model, dataset)]
    chosen = {name: ablation.variant(model, dataset, name) for name in names}
    epochs = args.epochs or recipes.get("paper", model, dataset).epochs
    name = ablation.file_name(model, dataset, epochs)
    results = {
        file: ablation.read_results(file, model, dataset, epochs)
        for file in (ablation.folder() / name, args.runs_dir / name)
    }
    todo: dict[str, tuple[Variant, Run]] = {}
    for seed in dict.fromkeys(args.seeds):
        for variant in chosen.values():
            if not any(ablation.is_done(found, variant, seed) for found in results.values()):
                run = _run(args, variant, epochs, seed)
                todo[str(run)] = (variant, run)

    def record(run: Run) -> None:
        variant = todo[str(run)][0]
        metrics = records.read(RunMetrics, run.folder / "metrics.json")
        complete = ablation.complete_data(dataset, metrics.train_images)
        file = (ablation.folder() if complete else args.runs_dir) / name
        # Read again: another process may have added a run.
        results[file] = ablation.add_run(file, _read(file, results[file]), variant, run.folder)
        print(f"{run}: recorded in {file}", flush=True)

    for _variant, run in todo.values():
        if run.metrics is not None:  # complete, and not recorded
            record(run)
    print(f"{len(args.seeds) * len(chosen) - len(todo)} of {len(args.seeds) * len(chosen)} runs are recorded already")
    every = [run for _variant, run in todo.values()]
    return run_queue.work(every, args.jobs, [*args.launcher, str(FIT)], args.fit, record)


def _read(file: Path, before: Ablation) -> Ablation:
    return ablation.read_results(file, before.model, before.dataset, before.epochs)


def _run(args: argparse.Namespace, variant: Variant, epochs: int, seed: int) -> Run:
    """Return the run of a variant."""
    folder = args.runs_dir / f"ablation.{args.model}.{args.dataset}.{variant.name}.{epochs}-epochs.seed{seed}"
    return Run(
        variant.model, args.dataset, "paper", seed, folder, epochs,
        arguments=("--variant", args.model, variant.name, "--epochs", str(epochs)),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
