"""Published models as ONNX, fp32 and int8: `python train/export.py` for all, or with names or folders for some.

A study file for the app's "Look inside" follows each model's files, once all models have these.
The graph takes the dataset's own pixels and contains scaling, resizing, normalisation, network and softmax. The files
are built, not tracked: the same weights give the same files again. Their metadata state what they were built from, so
`--missing` rebuilds only those of other weights, another card, other code or other library versions. `--triton FOLDER`
also writes the models as Triton Inference Server loads them.
"""

import argparse
import sys
from pathlib import Path

from train.cards import triton_repository
from train.errors import exit_status, program
from train.onnx_export.build import export_all
from train.onnx_export.metadata import FILES, outdated
from train.study import build as study
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog=program("export.py"), description="Build the ONNX files of published models.")
    parser.add_argument(
        "models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all published)"
    )
    parser.add_argument("--missing", action="store_true", help="build only files that are missing or out of date")
    parser.add_argument(
        "--jobs", type=int, default=1, help="models at a time, each in a process of its own (default: 1)"
    )
    parser.add_argument(
        "--triton",
        type=Path,
        metavar="FOLDER",
        help="also write the models into this model repository of Triton Inference Server; implies --missing",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(FILES),
        default="fp32",
        help="of the files for Triton; fp32: for GPUs and CPUs, int8: for CPUs with 8-bit dot products (default: fp32)",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return exit_status("export.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    chosen = models.chosen(args.models)
    only_missing = args.missing or args.triton
    cards = [card for card in chosen if outdated(card)] if only_missing else chosen
    # The quickest first, so that somebody who waits for them can begin.
    cards = sorted(cards, key=_size)
    failed: set[Path] = set()
    for number, built in enumerate(export_all(cards, args.jobs), start=1):
        if built.error:
            failed.add(built.card)
            print(f"export.py: {built.card.name}: {built.error}", file=sys.stderr, flush=True)
            continue
        files = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in built.files)
        # `python -m serve` reads this line: serve/engine/building.py.
        print(f"ONNX {number}/{len(cards)} {built.card.name} {built.seconds:.0f} s ({files})", flush=True)
    if args.triton:
        if not failed:
            for card in chosen:
                print(triton_repository.write(card, args.triton, args.precision))
    else:
        failed |= _studies([card for card in sorted(chosen, key=_size) if card not in failed], args)
    return 1 if failed else 0


def _studies(cards: list[Path], args: argparse.Namespace) -> set[Path]:
    """Build the study files, and return the cards whose file could not be written."""
    cards = [card for card in cards if study.outdated(card) or not args.missing]
    failed = set()
    for number, built in enumerate(study.export_all(cards, args.jobs), start=1):
        if built.error:
            failed.add(built.card)
            print(f"export.py: {built.card.name}: no {study.FILE}: {built.error}", file=sys.stderr, flush=True)
            continue
        size = (built.card / study.FILE).stat().st_size / 1e6
        what = f"nothing to look at: {built.none}" if built.none else f"{study.FILE} {size:.1f} MB"
        print(f"Study {number}/{len(cards)} {built.card.name} {built.seconds:.0f} s ({what})", flush=True)
    return failed


def _size(card: Path) -> int:
    try:
        return (card / "model.safetensors").stat().st_size
    except OSError:  # `export` says what is wrong
        return 0


if __name__ == "__main__":
    sys.exit(main())
