"""Names of classes in plots: drawn in a font that has them, or numbered, but never as boxes."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager

from train.training.results import fonts, plots

# In a font that comes with matplotlib, but not in its default one.
RARE = next(
    chr(code)
    for code in sorted(
        fonts._characters(font_manager.findfont("STIXGeneral"))
        - fonts._characters(font_manager.findfont("DejaVu Sans"))
    )
    if chr(code).isprintable()
)


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fonts but those that come with matplotlib; a glyph that is missing is an error."""
    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    fonts._families.cache_clear()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph .* missing")
        yield
    fonts._families.cache_clear()


def draw(names: list[str], folder: Path) -> None:
    n = len(names)
    plots.confusion_matrix(np.eye(n, dtype=int), names, "title", folder / "confusion.png")
    plots.class_accuracies({"": {"net": dict.fromkeys(names, 50.0)}}, "title", folder / "classes.png")
    plots.components(np.random.default_rng(0).random((20, 2)), np.arange(20) % n, names, "title", folder / "points.png")
    images = np.zeros((n, 8, 8, 3), np.uint8)
    plots.mistakes(images, np.arange(n), np.arange(n)[::-1], names, "title", folder / "mistakes.png")


def test_names_that_no_font_has_are_numbered(tmp_path: Path) -> None:
    names = ["cat", "日本語", "犬", "naïve", "Ελλάδα"]
    assert fonts.drawable(names) == ["cat", "class 1", "class 2", "naïve", "Ελλάδα"]
    draw(names, tmp_path)


def test_a_font_that_has_them_is_found(tmp_path: Path) -> None:
    before = matplotlib.rcParams["font.family"]
    assert fonts.drawable(["cat", "Ελλάδα"]) == ["cat", "Ελλάδα"]
    assert matplotlib.rcParams["font.family"] == before
    assert fonts.drawable(["cat", f"{RARE}!"]) == ["cat", f"{RARE}!"]
    assert len(matplotlib.rcParams["font.family"]) == len(before) + 1
    draw(["cat", f"{RARE}!"], tmp_path)


def test_boxes_of_the_last_resort_are_no_letters() -> None:
    assert fonts.drawable(["日本語"]) == ["class 0"]
    assert not [name for name in matplotlib.rcParams["font.family"] if name.startswith(fonts.LAST_RESORT)]
