"""Check every number of every card against the published weights: `python train/verify.py`, or `make verify`.

The metrics of torch, ONNX fp32 and int8 are measured again, on the complete test split and on the 1,000 images of it
that ship with the project; with `--samples` only on these, which needs no dataset and takes seconds a model. Without
`--samples`, temperature, curvature and threshold are fitted to the validation split again. What only
the training saw (validation accuracy, epochs, time, learning rate) is checked against its log, and all numbers against
each other. Any difference is an error. Taken on trust is what no file can confirm: seed, precision, hardware, versions,
commit, the accuracy before storing, and the settings other than epochs, batch size and learning rate. After a change of
the export, `--update` calibrates the cards again and writes what their ONNX files have.
"""

import argparse
import sys
from pathlib import Path

from train.cards import checks, evaluation, readme_table, updating
from train.errors import UserError, exit_status, program
from train.files import FileError
from train.paper import paper
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog=program("verify.py"), description=__doc__)
    parser.add_argument("models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all)")
    parser.add_argument("--samples", action="store_true", help="measure only on the images that ship with the project")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    evaluation.add_batch_size(parser)
    parser.add_argument(
        "--update",
        action="store_true",
        help="instead of checking, calibrate the cards, rebuild ONNX files that are out of date, write what they have",
    )
    args = parser.parse_args(argv)
    if args.update and args.samples:
        parser.error("--update measures on the complete test split, --samples does not: choose one")
    return exit_status("verify.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    folders = models.chosen(args.models)
    status = 0
    for folder in folders:
        if args.samples and not checks.ships_images(folder):
            print(f"{folder.name}: not checked, as the project ships no images of its dataset", flush=True)
            continue
        try:
            if args.update:
                updating.update(folder, args.data_dir)
                continue
            found = list(checks.differences(folder, args.data_dir, args.samples, paper.accuracy, args.eval_batch_size))
        except FileError as error:
            found = [str(error)]
        except UserError as error:
            print(f"verify.py: {folder.name}: {error}", file=sys.stderr)
            status = 2
            continue
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            found = [checks.damage(error)]
        print(f"{folder.name}: {'; '.join(found) or 'as stated'}", flush=True)
        status = max(status, 1 if found else 0)
    if args.update and any(folder.resolve().parent == models.MODEL_CARDS.resolve() for folder in folders):
        readme_table.write()
    return status


if __name__ == "__main__":
    sys.exit(main())
