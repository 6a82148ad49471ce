"""Publish a finished run as a model card folder in the Hub's layout: `python train/publish.py runs/RUN_FOLDER`.

The weights are stored in a compact form, loaded back as anyone will load them, and measured on the test split with
torch and as ONNX: the card states these metrics.
"""

import argparse
import signal
import sys
from pathlib import Path

from train import records
from train.cards import checks, evaluation, publishing, readme_table
from train.errors import exit_status, program
from train.paper import paper
from train.records import CardMetrics
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("publish.py"), description="Make the model card folder of a finished run."
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--output-dir", type=Path, help="(default: model_cards/<model>.<dataset>)")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: what the run used)")
    evaluation.add_batch_size(parser)
    parser.add_argument("--full-precision", action="store_true", help="keep the weights in float32")
    args = parser.parse_args(argv)
    # An exception, as Ctrl-C raises one, so that the unfinished folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return exit_status("publish.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    target = publishing.publish(
        args.run, args.output_dir, args.data_dir, args.full_precision, paper.accuracy, args.eval_batch_size
    )
    if target.parent == models.MODEL_CARDS.resolve():
        readme_table.write()
    metrics = records.read(CardMetrics, target / "metrics.json")
    for line in checks.broken_bounds(metrics):
        print(f"publish.py: WARNING: {line}", file=sys.stderr)
    size = (target / "model.safetensors").stat().st_size / 1e6
    print(f"{target}: test accuracy {metrics.test_accuracy:.2f} %, {size:.1f} MB of weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
