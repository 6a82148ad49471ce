"""Measure published models on corrupted test images: `python train/robustness.py improved_resnet18.cifar10 ...`.

The corruptions are those of CIFAR-10-C and MNIST-C, at five severities, of the 1,000 test images that ship with the
project or of as many as `--images` says. Accuracies and calibration errors are written to `robustness.json`, a plot and
the README of the card. A run that was stopped goes on where it was.
"""

import argparse
import sys
from pathlib import Path

from train.cards import model_card
from train.cards import robustness as cards_robustness
from train.errors import exit_status
from train.files import write_text
from train.onnx_export.metadata import FILES
from train.shifts import robustness
from train.shifts.robustness import Robustness
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python train/robustness.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="names like improved_resnet18.cifar10, or folders (default: all)")
    parser.add_argument("--images", type=_images, metavar="N", help="test images, spread over the complete test split")
    parser.add_argument("--precision", choices=FILES, default="int8", help="(default: int8)")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    parser.add_argument(
        "--logits",
        type=Path,
        default=models.REPOSITORY / "runs" / "robustness",
        help="folder in which the logits are kept (default: runs/robustness)",
    )
    args = parser.parse_args(argv)
    return exit_status("robustness.py", lambda: _main(args))


def _images(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 to 10000")
    return int(text)


def _main(args: argparse.Namespace) -> int:
    cards = models.chosen(args.models)
    for card, found in robustness.measure(cards, args.precision, args.images, args.data_dir, args.logits):
        cards_robustness.plot(card)
        write_text(card / "README.md", model_card.render(card))
        print("\n".join(_lines(card.name, found)), flush=True)
    return 0


def _lines(name: str, found: Robustness) -> list[str]:
    """Format a model's results as a table: accuracy at each severity, its mean, and the mean calibration error."""
    clean, mean = found.clean, found.mean
    width = max(map(len, found.corruptions))
    lines = [
        f"{name}: {clean.accuracy:.2f} % on {found.test_images:,} clean images (ECE {100 * clean.ece:.2f} %), "
        f"{mean.accuracy:.2f} % on corrupted ones (ECE {100 * mean.ece:.2f} %)",
        f"  {'severity':<{width}}" + "".join(f"{severity:>7}" for severity in range(1, 6)) + "   mean    ECE",
    ]
    for corruption, scores in found.corruptions.items():
        each = "".join(f"{accuracy:7.1f}" for accuracy in scores.accuracy)
        lines.append(f"  {corruption:<{width}}{each:<35}{scores.mean.accuracy:7.1f}{100 * scores.mean.ece:7.1f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
