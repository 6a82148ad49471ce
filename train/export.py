"""Published models as ONNX, fp32 and int8: `python train/export.py` for all, or with names or folders for some.

The graph takes the dataset's own pixels and contains scaling, resizing, normalisation, network and softmax. The files
are built, not tracked: the same weights give the same files again. Their metadata state what they were built from, so
`--missing` rebuilds only those of other weights, another card, other code or other library versions.
"""

import argparse
import sys

from tqdm import tqdm

from train.errors import exit_status
from train.onnx_export.build import export_all
from train.onnx_export.metadata import outdated
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python train/export.py", description="Build the ONNX files of published models."
    )
    parser.add_argument(
        "models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all published)"
    )
    parser.add_argument("--missing", action="store_true", help="build only files that are missing or out of date")
    parser.add_argument(
        "--jobs", type=int, default=1, help="models at a time, each in a process of its own (default: 1)"
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return exit_status("export.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    cards = models.chosen(args.models)
    if args.missing:
        cards = [card for card in cards if outdated(card)]
    failed = False
    with tqdm(total=len(cards), unit="model", disable=None) as bar:
        for card, paths, error in export_all(cards, args.jobs):
            for path in paths:
                bar.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", file=sys.stdout)
            if error:
                failed = True
                bar.write(f"export.py: {card.name}: {error}", file=sys.stderr)
            bar.update()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
