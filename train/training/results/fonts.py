"""Fonts for class names that matplotlib's default font cannot draw, such as Chinese ones."""

from functools import cache

import matplotlib
from matplotlib import font_manager, ft2font

# It has a box for every character.
LAST_RESORT = "Last Resort"


def drawable(names: list[str]) -> list[str]:
    """Make class names that can be drawn, and have matplotlib fall back to the fonts of this machine that do it.

    A name with a character that no font has becomes "class 3", by its position: boxes would all look the same.
    """
    for family in _families(frozenset("".join(names))):
        if family not in matplotlib.rcParams["font.family"]:
            matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], family]
    known = set[int]().union(*map(_characters, _files()))
    return [name if known.issuperset(map(ord, name)) else f"class {i}" for i, name in enumerate(names)]


def _files() -> list[str]:
    """List the font files that matplotlib draws with now."""
    families = matplotlib.rcParams["font.family"]
    return [font_manager.findfont(font_manager.FontProperties(family=[family])) for family in families]


@cache
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    """Choose families that have the characters which the current fonts lack, each the one that has most of the rest."""
    missing = set(map(ord, characters)).difference(*map(_characters, _files()))
    found: list[str] = []
    fonts = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and not font.name.startswith(LAST_RESORT)
    }
    while missing:
        best = max(fonts, key=lambda name: len(missing & _characters(fonts[name])), default=None)
        if best is None or not missing & _characters(fonts[best]):
            break
        missing -= _characters(fonts[best])
        found.append(best)
    return tuple(found)


@cache
def _characters(file: str) -> frozenset[int]:
    """List the code points that a font file has."""
    try:
        return frozenset(ft2font.FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # not a font that it can draw with, as some of emoji
        return frozenset()
