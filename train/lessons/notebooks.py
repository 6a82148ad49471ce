"""Run the lessons and store them with their outputs: `python -m train.lessons.notebooks [NAME ...]`.

A notebook is stored so that running it again changes nothing but the outputs that have changed: without times, ids at
random, or what a front end adds. Its link to Colab and its first code cell follow from the project's address in
`pyproject.toml`.
"""

import argparse
import base64
import io
import os
import sys
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from train.errors import UserError, exit_status
from train.files import write_text
from train.lessons.lesson import VARIABLE
from train.training.models import REPOSITORY

FOLDER = REPOSITORY / "notebooks"
# Stands for the project's address until there is a public one.
PLACEHOLDER = "https://github.com/ORGANISATION/deep-image-zoo"
COLAB = "https://colab.research.google.com"
SETUP = """\
import sys

if "google.colab" in sys.modules:  # elsewhere the project is installed already
    %pip install --quiet "deep-image-zoo[notebooks] @ git+{address}"

%matplotlib inline"""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
COLOURS = 256
# Of a single cell, in seconds.
TIMEOUT = 3600


def address() -> str:
    """Return the address of the project's repository, or what stands for it as long as it has none."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    return project["tool"]["deep-image-zoo"]["repository"] or PLACEHOLDER


def files(names: list[str] | None = None) -> list[Path]:
    """List the lessons in their order: those whose file names begin with one of `names`, or all.

    Raises:
        UserError: there is no such lesson.
    """
    every = sorted(FOLDER.glob("*.ipynb"))
    for name in names or ():
        if not any(file.name.startswith(name) for file in every):
            raise UserError(f"unknown lesson {name!r}: valid are {', '.join(file.stem for file in every)}")
    return [file for file in every if not names or file.name.startswith(tuple(names))]


def badge(file: Path) -> str:
    """Return the link that opens a lesson in Colab, in Markdown."""
    repository = address().removeprefix("https://github.com/")
    link = f"{COLAB}/github/{repository}/blob/main/notebooks/{file.name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"


def prepared(notebook: NotebookNode, file: Path) -> NotebookNode:
    """Return a lesson in the form in which it is stored, with its link and its first code cell up to date."""
    stored: NotebookNode = nbformat.v4.new_notebook(metadata=METADATA, nbformat_minor=5)
    for index, cell in enumerate(notebook.cells):
        kept = NotebookNode(cell)
        kept.id, kept.metadata = f"cell-{index:02d}", NotebookNode()
        if index == 0:  # the link follows the heading
            heading, _, text = kept.source.partition("\n")
            text = "\n".join(line for line in text.splitlines() if COLAB not in line).strip("\n")
            kept.source = f"{heading}\n\n{badge(file)}\n\n{text}"
        elif index == 1:
            kept.source = SETUP.format(address=address())
        for output in kept.get("outputs", ()):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if image := output.get("data", {}).get("image/png"):
                output.data["image/png"] = _smaller(image)
        stored.cells.append(kept)
    return stored


def _smaller(png: str) -> str:
    """Return a plot, a PNG in base 64, with 256 colours: a third of the bytes."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        if image.mode == "P":
            return png
        found = io.BytesIO()
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(found, "PNG", optimize=True)
    return base64.b64encode(found.getvalue()).decode()


def execute(file: Path) -> NotebookNode:
    """Run a lesson in a fresh kernel, and return it with its outputs, as it is to be stored.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(file, as_version=4)
    run(notebook)
    return prepared(notebook, file)


def run(notebook: NotebookNode, short: bool = False) -> None:
    """Run a notebook in a fresh kernel of this interpreter, in the folder of the lessons; its outputs are replaced.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, record_timing=False)
    client.execute(env={**os.environ, VARIABLE: "short" if short else "full"})


def as_text(notebook: NotebookNode) -> str:
    """Return the text of a notebook's file."""
    return str(nbformat.writes(notebook)) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m train.lessons.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of file names (default: all lessons)")
    args = parser.parse_args(argv)
    return exit_status("notebooks", lambda: _main(args.names))


def _main(names: list[str]) -> int:
    for file in files(names):
        print(file.name, flush=True)
        write_text(file, as_text(execute(file)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
