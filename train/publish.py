"""Publish a finished run as a model card folder in the Hub's layout: `python train/publish.py runs/RUN_FOLDER`.

The weights are stored in a compact form, loaded back as anyone will load them, and measured on the test split with
torch and as ONNX: the card states these metrics. For other readers, `python train/publish.py CARD --full --output-dir
FOLDER` writes the whole weights in half precision, and `--push ORG/NAME` puts these on the Hugging Face Hub.
"""

import argparse
import signal
import sys
from pathlib import Path

from train import records
from train.cards import checks, evaluation, hub, publishing, readme_table
from train.errors import exit_status, program
from train.paper import paper
from train.records import CardMetrics
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("publish.py"), description="Make the model card folder of a finished run."
    )
    parser.add_argument("run", type=Path, help="the run folder; with --full or --push also a published model")
    parser.add_argument("--output-dir", type=Path, help="(default: model_cards/<model>.<dataset>)")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: what the run used)")
    evaluation.add_batch_size(parser)
    parser.add_argument("--full-precision", action="store_true", help="keep the weights in float32")
    parser.add_argument(
        "--full",
        action="store_true",
        help="of a published model, write a card with the whole weights in half precision to --output-dir, as "
        "transformers and Accelerate read them",
    )
    parser.add_argument(
        "--push",
        metavar="ORG/NAME",
        help="create or update this repository of the Hugging Face Hub, with whole weights and ONNX files",
    )
    args = parser.parse_args(argv)
    # An exception, as Ctrl-C raises one, so that the unfinished folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return exit_status("publish.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    if args.full or (args.push and not (args.run / "args.json").is_file()):
        return _hand_on(args, models.card(str(args.run)))
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
    if args.push:
        print(hub.push(target, args.push))
    return 0


def _hand_on(args: argparse.Namespace, card: Path) -> int:
    """Write or push a published model for readers other than this project."""
    if args.full:
        folder: Path | None = args.output_dir
        if folder is None or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise models.ModelError(f"--full needs an --output-dir that is new or empty, not {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        hub.write_whole(card, folder)
        print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB of weights")
    if args.push:
        print(hub.push(card, args.push))
    return 0


if __name__ == "__main__":
    sys.exit(main())
