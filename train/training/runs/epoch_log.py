"""`log.csv`, the log of a run: a row for each epoch; and `steps.csv`, the training loss within the epochs."""

import csv
import io
from pathlib import Path

from train.files import write_text


def read(file: Path) -> list[dict[str, float]]:
    """Read the rows of a log. A row lacks what it has no value for: see `write`.

    Raises:
        OSError: there is no log.
        ValueError, TypeError: it is damaged.
    """
    with file.open() as lines:
        return [{name: float(value) for name, value in row.items() if value != ""} for row in csv.DictReader(lines)]


def write(rows: list[dict[str, float]], file: Path) -> None:
    """Write the whole log: that of a resumed run is the same as that of an uninterrupted one.

    The rows of a run that an earlier version began may lack values that this one computes.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def images_per_second(rows: list[dict[str, float]]) -> float:
    """Average the speed of a whole training. Images of a last batch too small to train on do not count."""
    return sum(row["images_per_second"] * row["seconds"] for row in rows) / sum(row["seconds"] for row in rows)
