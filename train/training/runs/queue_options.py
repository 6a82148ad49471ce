"""The command line's options of the queue of runs, for `train/fit_all.py` and `train/ablate.py`."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path


def launcher(text: str) -> list[str]:
    """Split a command that can be started into its words.

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


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side; default: 1")
    parser.add_argument(
        "--launcher",
        type=launcher,
        default=f"{shlex.quote(sys.executable)} -m accelerate.commands.launch --quiet --num_processes 1",
        help="what starts fit.py; default: accelerate launch --quiet --num_processes 1",
    )
    parser.add_argument("fit", nargs="*", metavar="-- ...", help="more arguments for fit.py")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check the options' values, and make the folder of the runs; end with status 2 where one is wrong."""
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    try:
        args.runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--runs-dir {args.runs_dir}: no folder can be made there ({error.strerror})")
