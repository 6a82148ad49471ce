"""Test figures of a published model or a run: `python train/evaluate.py improved_googlenet.mnist`."""

import argparse
import sys
from pathlib import Path

from train.cards.evaluation import RUNTIMES, load, logits, write
from train.errors import UserError, exit_status
from train.training import measure


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python train/evaluate.py", description=__doc__)
    parser.add_argument("model", help="a published model's name or folder, or a run folder")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch", help="(default: torch)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        help="write figures.json, accuracy of each class, confusion matrix, worst mistakes, PCA of the features and "
        "the training's curves there",
    )
    args = parser.parse_args(argv)
    return exit_status("evaluate.py", lambda: evaluate(args))


def evaluate(args: argparse.Namespace) -> int:
    """Print the figures that the command line asks for, and write pictures of them."""
    if args.output_dir:  # what cannot be had fails before the slow part
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"--output-dir {args.output_dir}: that is a file") from None
    subject = load(args.model, args.data_dir)
    outputs = logits(subject, args.runtime)
    found = measure.accuracies(outputs.argmax(1), subject.test.labels.numpy(), subject.class_names)
    accuracy, images = found["test_accuracy"], found["test_images"]
    print(f"{subject.title}: test accuracy {accuracy:.2f} % on {images:,} images ({args.runtime})")
    width = max(map(len, subject.class_names))
    for label, accuracy in found["per_class_accuracy"].items():
        print(f"  {label:<{width}} {accuracy:6.2f} %")
    if args.output_dir:
        write(args.output_dir, subject, outputs, found)
        print(f"Figures in {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
