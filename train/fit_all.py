"""Train all that is missing: `python train/fit_all.py`, each network on each dataset, one run after the other.

Complete runs are left alone, those that were cut off are resumed, and a run that fails does not stop the others. Each
run is a process of `fit.py`; what follows `--` is passed on to all of them:

    python train/fit_all.py --jobs 4 --seeds 0 1 2 -- --epochs 60
"""

import argparse
import sys
from pathlib import Path

from train.training import recipes
from train.training.runs import queue_options, run_queue
from zoo.catalog import DATASETS, NETWORKS

FIT = Path(__file__).resolve().parent / "fit.py"


def epochs_of(fit: list[str]) -> int | None:
    """Return the `--epochs` among arguments of `fit.py`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--epochs", type=int)
    epochs: int | None = parser.parse_known_args(fit)[0].epochs
    return epochs


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 when every run is complete, 1 when one failed or a signal came, 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python train/fit_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--recipe", default="fast", choices=recipes.RECIPES, help="default: fast")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="default: 0")
    queue_options.add(parser)
    args = parser.parse_args(argv)
    queue_options.check(parser, args)
    try:
        runs = run_queue.runs(args.models, args.datasets, args.seeds, args.recipe, args.runs_dir, epochs_of(args.fit))
        return 0 if run_queue.work(runs, args.jobs, [*args.launcher, str(FIT)], args.fit) else 1
    except OSError as error:  # its output goes to a full disk, for example
        print(f"fit_all.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
