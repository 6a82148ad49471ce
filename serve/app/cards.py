"""What the folders of published models hold: cards, figures, confusion matrices."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Card:
    """A published model's folder. `metrics` is its metrics.json, empty where there is none."""

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def dataset(self) -> str:
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
        count = _number(self.metrics.get("parameters"))
        return None if count is None else int(count)

    @property
    def confusion(self) -> Counts | None:
        """Test images by true class (rows) and predicted class (columns), int64 [classes, classes]."""
        try:
            counts = np.array(self.metrics.get("confusion_matrix"), dtype=np.int64)
        except (TypeError, ValueError):
            return None
        square = counts.ndim == 2 and counts.shape[0] == counts.shape[1] and counts.shape[0] > 1
        return counts if square else None


def cards(folder: Path) -> dict[str, Card]:
    """Find the cards under `folder`, by name: the folders with README.md or metrics.json."""
    found = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        # Less than train/ asks for, which works on complete models: here a folder is shown for whatever it has, with a
        # dash for each figure that is missing.
        if (entry / "README.md").is_file() or (entry / "metrics.json").is_file():
            found[entry.name] = Card(entry.name, entry, _metrics(entry / "metrics.json"))
    return found


def _metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def markdown(path: Path) -> str:
    """Read a Markdown file for the page: without its YAML head, and with its local pictures embedded.

    Pictures become data URLs, so that no file of the folder has to be served. One from elsewhere is replaced by its
    alternative text: the page sends no request to other servers.
    """
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)

    def embed(match: re.Match[str]) -> str:
        file = (path.parent / match["file"]).resolve()
        kind = mimetypes.guess_type(file.name)[0] or ""
        here = file.is_relative_to(path.parent.resolve()) and file.is_file()
        if not here or not kind.startswith("image/"):
            return match["text"]
        return f"![{match['text']}](data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()})"

    return re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<file>[^)\s]+)[^)]*\)", embed, text)


def mistakes(confusion: Counts, count: int = 5) -> list[tuple[int, int, int]]:
    """Find the most frequent confusions: (true class, predicted class, images), most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(true), int(said), int(wrong[true, said])) for true, said in pairs if wrong[true, said]]
