"""The README.md of a published model: every figure from `metrics.json`.

`train/publish.py` writes it. It also tells how today's recipes differ from the run's: `python train/card.py` writes
all of them anew after a change of recipes, or of this file, and the project's table of them.
"""

import argparse
import sys

from train.cards import readme_table
from train.cards.card import render
from train.errors import exit_status
from train.files import write_text
from train.training import models


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="python train/card.py",
        description="Write the README.md of every published model anew, and the table of them in the project's.",
    ).parse_args(argv)
    return exit_status("card.py", write)


def write() -> int:
    """Write the text of every published model's card, and the table of them."""
    for folder in models.cards():
        write_text(folder / "README.md", render(folder))
    readme_table.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
