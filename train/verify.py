"""Every figure of every card held against the published weights: `python train/verify.py`, or `make verify`.

Figures of torch, ONNX fp32 and int8 are measured again, on the complete test split and on the 1,000 images of it that
ship with the project; with `--samples` on these alone, which needs no dataset and takes seconds a model. What only the
training saw (validation accuracy, epochs, time, learning rate) is held against its log, and all figures against each
other. It fails on any difference. What nothing is left of is taken on trust: seed, precision, hardware, versions,
commit, accuracy before storing, and the settings beside epochs, batch and learning rate. After a change of the export,
`--update` states what the ONNX files have come to.
"""

import argparse
import sys
from pathlib import Path

from train.cards import readme_table
from train.cards.checks import differences, ships_images, update
from train.errors import UserError, exit_status
from train.files import FileError
from train.paper import paper
from train.training import models


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python train/verify.py", description=__doc__)
    parser.add_argument("models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all)")
    parser.add_argument("--samples", action="store_true", help="measure on the images that ship with the project alone")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    parser.add_argument(
        "--update",
        action="store_true",
        help="instead of checking, build the ONNX files anew where they are out of date and state their accuracies",
    )
    args = parser.parse_args(argv)
    if args.update and args.samples:
        parser.error("--update measures on the complete test split, --samples does not: choose one")
    return exit_status("verify.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    folders = models.chosen(args.models)
    status = 0
    for folder in folders:
        if args.samples and not ships_images(folder):
            print(f"{folder.name}: not checked, as the project ships no images of its dataset", flush=True)
            continue
        try:
            if args.update:
                update(folder, args.data_dir)
                continue
            found = list(differences(folder, args.data_dir, args.samples, paper.accuracy))
        except FileError as error:
            found = [str(error)]
        except UserError as error:
            print(f"verify.py: {folder.name}: {error}", file=sys.stderr)
            status = 2
            continue
        except KeyError as error:
            found = [f"metrics.json or config.json has no {error}"]
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            found = [f"metrics.json, config.json or log.csv is damaged: {error}"]
        print(f"{folder.name}: {'; '.join(found) or 'as stated'}", flush=True)
        status = max(status, 1 if found else 0)
    if args.update and any(folder.resolve().parent == models.MODEL_CARDS.resolve() for folder in folders):
        readme_table.write()
    return status


if __name__ == "__main__":
    sys.exit(main())
