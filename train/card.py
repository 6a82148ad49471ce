"""Rebuild the README.md of every published model, and the table of them in the project's README.

`train/publish.py` writes a card when it publishes a run. A card also tells how today's recipe differs from the run's:
rebuild the cards after a change of the recipes or of the cards' templates.
"""

import argparse
import sys

from train.cards import model_card, readme_table
from train.errors import exit_status
from train.files import write_text
from train.training import models


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    argparse.ArgumentParser(prog="python train/card.py", description=__doc__).parse_args(argv)
    return exit_status("card.py", _main)


def _main() -> int:
    for folder in models.cards():
        write_text(folder / "README.md", model_card.render(folder))
    readme_table.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
