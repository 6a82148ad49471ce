"""Test metrics of a published model or a run: `python train/evaluate.py improved_googlenet.mnist`."""

import argparse
import sys
from pathlib import Path

import numpy as np

from train.cards import evaluation
from train.errors import UserError, exit_status, program
from train.training.results import measure


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog=program("evaluate.py"), description=__doc__)
    parser.add_argument("model", help="a published model's name or folder, or a run folder")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: what a run used)")
    parser.add_argument("--runtime", choices=evaluation.RUNTIMES, default="torch", help="(default: torch)")
    evaluation.add_batch_size(parser)
    parser.add_argument(
        "--output-dir",
        type=Path,
        help="write figures.json, accuracy of each class, confusion matrix, worst mistakes, PCA of the features and "
        "the training curves there",
    )
    args = parser.parse_args(argv)
    return exit_status("evaluate.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    if args.output_dir:  # before the slow part
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"--output-dir {args.output_dir}: that is a file") from None
    subject = evaluation.load(args.model, args.data_dir)
    outputs = evaluation.logits(subject, args.runtime, args.eval_batch_size)
    metrics = evaluation.accuracies(outputs, subject.test, subject.class_names)
    images = f"{metrics.test_images:,} images"
    print(f"{subject.title}: test accuracy {metrics.test_accuracy:.2f} % on {images} ({args.runtime})")
    others = {"macro F1": metrics.macro_f1}
    if measure.uneven(np.array(metrics.confusion_matrix)):
        others["balanced accuracy"] = metrics.balanced_accuracy
    if metrics.top5_accuracy is not None:
        others["top-5 accuracy"] = metrics.top5_accuracy
    print(f"  {', '.join(f'{name} {value:.2f} %' for name, value in others.items())}")
    width = max(map(len, subject.class_names))
    for label, accuracy in metrics.per_class_accuracy.items():
        print(f"  {label:<{width}} " + ("no test image" if accuracy is None else f"{accuracy:6.2f} %"))
    if args.output_dir:
        evaluation.write(args.output_dir, subject, outputs, metrics, args.eval_batch_size)
        print(f"Metrics and plots in {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
