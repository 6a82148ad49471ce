"""What the folders of published models hold: metrics, confusion matrices and Markdown.

What was read is kept in memory until the files change. Reading still looks at every folder, so the event loop leaves it
to a thread.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
# The folder that train/report.py writes about, whose parent has the report.
REPORTED = "model_cards"
# Modification time in ns and size of a file; None if there is no such file.
Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Card:
    """A published model's folder. `metrics` is its metrics.json, empty if that is missing or broken."""

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def dataset(self) -> str:
        """The dataset's tag, as in the folder's name."""
        return self.name.partition(".")[2]

    @property
    def paper(self) -> float | None:
        """The paper's test accuracy of this architecture on this dataset, percent."""
        return _number(self.metrics.get("paper_test_accuracy"))

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, percent."""
        return _number(self.metrics.get("test_accuracy"))

    @property
    def parameters(self) -> int | None:
        """The number of parameters."""
        count = _number(self.metrics.get("parameters"))
        return None if count is None else int(count)

    @cached_property
    def confusion(self) -> Counts | None:
        """Test images by true class (rows) and predicted class (columns), int64 [classes, classes]."""
        try:
            counts = np.array(self.metrics.get("confusion_matrix"), dtype=np.int64)
        except (TypeError, ValueError):
            return None
        square = counts.ndim == 2 and counts.shape[0] == counts.shape[1] and counts.shape[0] > 1
        return counts if square else None


def read_cards(folder: Path) -> dict[str, Card]:
    """Read the cards under `folder`, by name: all folders with README.md or metrics.json.

    train/ asks for complete folders. Here a folder is shown with whatever it has, and a dash for each missing value.
    """
    found = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        stamp = _stamp(entry / "metrics.json")
        if stamp or _stamp(entry / "README.md"):
            found[entry.name] = _card(entry, stamp)
    return found


def report(folder: Path) -> Path | None:
    """Return the path of the report on the models in `folder`; None if there is none.

    Any other folder beside the report holds models that it does not cover.
    """
    folder = folder.resolve()
    path = folder.parent / "REPORT.md"
    return path if folder.name == REPORTED and path.is_file() else None


def sections(path: Path) -> list[str]:
    """List the titles of a Markdown file's sections, those of the second level."""
    return re.findall(r"^## (.+)$", _text(path, _stamp(path)), flags=re.MULTILINE)


def markdown(path: Path, section: str = "") -> str:
    """Read a Markdown file, or one `section` of it, for the page: without its YAML head, and all within this page.

    Images become data URLs, so no file of the folder has to be served. One from elsewhere becomes its alternative text:
    the page sends no requests to other servers. Links to other files become their text, as these files are not here.
    Headings are one level lower: the first is that of the page.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", _text(path, _stamp(path)), flags=re.DOTALL)
    if section:
        head = f"## {section}\n"
        text = head + text.partition(f"\n{head}")[2].partition("\n## ")[0]

    def embed(match: re.Match[str]) -> str:
        file = (path.parent / match["file"]).resolve()
        kind = mimetypes.guess_type(file.name)[0] or ""
        here = file.is_relative_to(path.parent.resolve()) and file.is_file()
        if not here or not kind.startswith("image/"):
            return match["text"]
        return f"![{match['text']}](data:{kind};base64,{_base64(file, _stamp(file))})"

    text = re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<file>[^)\s]+)[^)]*\)", embed, text)
    text = re.sub(r"(?<!!)\[(?P<text>[^\]]*)\]\((?!https?:)[^)]*\)", r"\g<text>", text)
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else re.sub("^#", "##", part, flags=re.MULTILINE) for part in parts)


def mistakes(confusion: Counts, count: int = 5) -> list[tuple[int, int, int]]:
    """List the most frequent confusions as (true class, predicted class, images), most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(true), int(said), int(wrong[true, said])) for true, said in pairs if wrong[true, said]]


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _card(folder: Path, _: Stamp) -> Card:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metrics = {}
    return Card(folder.name, folder, metrics if isinstance(metrics, dict) else {})


@lru_cache(maxsize=64)
def _text(path: Path, _: Stamp) -> str:
    return path.read_text(encoding="utf-8")


@lru_cache(maxsize=64)
def _base64(path: Path, _: Stamp) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
