"""The list of the images that a run saw, `files.csv`: each one's name, content, class and split."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from train.files import FileError, atomic_write

FILE = "files.csv"


class Row(NamedTuple):
    """One image.

    Attributes:
        file: its path in the dataset's folder, or its row in a table.
        sha256: the first 16 digits of its encoded bytes' hash.
        label: the name of its class.
        split: "train", "validation" or "test".
    """

    file: str
    sha256: str
    label: str
    split: str


def write(rows: Iterable[Row], file: Path) -> None:
    """Write a list, atomically."""
    with atomic_write(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def read(file: Path) -> list[Row]:
    """Read a list.

    Raises:
        FileError: the file is missing or damaged.
    """
    try:
        with file.open(newline="") as stream:
            head, *rows = csv.reader(stream)
            if tuple(head) != Row._fields:
                raise ValueError(f"its columns are {', '.join(head)}")
            return [Row(*row) for row in rows]
    except FileNotFoundError:
        raise FileError(f"{file.parent} has no {file.name}") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise FileError(f"{file} is damaged: {error}") from None


def difference(before: Iterable[Row], now: Iterable[Row]) -> str | None:
    """Say in a few words what changed between two lists; None where nothing but the files' names did.

    An image is known by its content: one that is renamed is the same, one that is edited is removed and added.
    """
    was, is_ = list(before), list(now)
    added, removed = _beyond(is_, was), _beyond(was, is_)
    moved_to = {row.sha256: row for row in added}
    moved = [row for row in removed if row.sha256 in moved_to]
    known = {row.sha256 for row in moved}
    parts = [
        _count("added", [row for row in added if row.sha256 not in known]),
        _count("removed", [row for row in removed if row.sha256 not in known]),
    ]
    if moved:
        first, other = moved[0], moved_to[moved[0].sha256]
        parts.append(
            f"{len(moved):,} in another class or split ({first.file}: from {first.label!r}, {first.split}, to "
            f"{other.label!r}, {other.split})"
        )
    return ", ".join(part for part in parts if part) or None


def _beyond(rows: list[Row], others: list[Row]) -> list[Row]:
    """Select the rows that have no counterpart among others, each of which is one row's alone."""
    left = Counter(row[1:] for row in others)
    found = []
    for row in rows:
        if left[row[1:]]:
            left[row[1:]] -= 1
        else:
            found.append(row)
    return found


def _count(what: str, rows: list[Row]) -> str:
    return f"{len(rows):,} {what} ({rows[0].file}{', ...' if len(rows) > 1 else ''})" if rows else ""
