"""The Jinja environment that model cards, the README's table and the report are rendered with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["cell", "environment", "fixed", "listed", "paragraph", "table", "thousands"]


def environment(folder: Path) -> Environment:
    """Return the environment for a folder of Markdown templates.

    A name that is not defined is an error, and a line that holds nothing but a tag leaves no line in the output. The
    functions below are filters; so is `general`, a number without trailing zeros.
    """
    jinja = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Markdown
    )
    jinja.filters |= {
        "cell": cell,
        "fixed": fixed,
        "general": lambda value: f"{value:g}",
        "listed": listed,
        "paragraph": paragraph,
        "table": table,
        "thousands": thousands,
    }
    return jinja


def paragraph(text: str) -> str:
    """Join the lines of a paragraph: a template wraps it for its reader, the document holds it as one line."""
    return " ".join(text.split()) + "\n"


def fixed(value: float | None, digits: int = 2) -> str:
    """Format a number with a fixed number of decimals; a missing one is a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def thousands(value: int) -> str:
    """Format an integer as in "5,629,386"."""
    return f"{value:,}"


def listed(words: Iterable[str]) -> str:
    """Join words as in "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells, the header first, as a Markdown table."""
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


def cell(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "\\|")
