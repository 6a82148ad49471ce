"""Read a folder of images as splits: a sub-folder for each class, or for each split with one for each class below it.

The `datasets` library guesses splits and classes from words in the names of folders and files ("train_3.png"), and
leaves out files that do not fit its guess. Here an image's class is its folder, whatever its file is called and
whatever else lies in the folder.
"""

import hashlib
import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from train.data.encoded import Encoded, Source
from train.data.reference import SPLITS, DataError

TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")
# What operating systems and tools leave in folders, in lower case. Names with a dot in front are hidden too.
CLUTTER = {
    "__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip


def is_image_folder(folder: Path) -> bool:
    """Tell a folder of images from a dataset that was downloaded from the Hub, which holds tables.

    Folders of classes decide it. Without them, a table in one of the Hub's places does.
    """
    train = [path for path in _folders(folder) if SPLITS.get(path.name.lower()) == "train"]
    if any(map(_classes_lie_in, (folder, *train))):
        return True
    places = ("*", "data/*", "*/*.parquet", "*/*/*.parquet", "*/metadata.*")
    if any(path.suffix.lower() in TABLES for place in places for path in folder.glob(place)):
        return False
    # Without classes too: `load` says what is missing.
    found = [path for path in folder.iterdir() if not _ignored(path)]
    return not found or any(path.is_dir() or _is_image(path) for path in found)


def load(folder: Path) -> Source:
    """Read the splits of a folder of images, sorted by path.

    All images are in one split, "train", unless the sub-folders have the names of splits ("train", "Test", "val", ...).
    Other files are left out, with a note; hidden files and folders and what operating systems leave without one.

    Raises:
        DataError: a class has sub-folders with images, an image is in no class, a folder cannot be a class, or the
            folders of splits do not fit each other; or there is no image.
    """
    top = _folders(folder)
    if len(top) == 1 and top[0].name.lower() not in SPLITS and _holds_classes(top[0]):  # as archives are unpacked
        raise DataError(f"its folders of classes are one folder deeper: --dataset {shlex.quote(_shown(top[0]))}")
    if not _has_splits(top):
        found = _split(folder, folder, None)
        if not len(found.encoded):
            raise DataError("; ".join(["it holds no image in a sub-folder for each class", *_notes(folder, [found])]))
        return Source(found.classes, {"train": found.encoded}, _notes(folder, [found]))
    names = {path: SPLITS[path.name.lower()] for path in top if path.name.lower() in SPLITS}
    if "train" not in names.values():
        raise DataError(
            f"{folder} has folders of splits ({', '.join(sorted(path.name for path in names))}), but none is called "
            "'train'"
        )
    if len(set(names.values())) < len(names):
        raise DataError(f"{folder} has two folders for one split: {', '.join(sorted(path.name for path in names))}")
    _refuse_loose_images(folder)
    train = next(path for path in names if names[path] == "train")
    classes = sorted(_class_name(path) for path in _folders(train))
    found_splits = {split: _split(path, folder, classes) for path, split in names.items()}
    beside = [_shown(path.name) for path in top if path not in names]
    notes = (f"folders beside the splits are left out: {_listed(beside)}",) if beside else ()
    splits = {split: found.encoded for split, found in found_splits.items()}
    return Source(classes, splits, (*notes, *_notes(folder, found_splits.values())))


@dataclass(frozen=True)
class _Found:
    """One split: its classes, its images, and the files that are none."""

    classes: list[str]
    encoded: Encoded
    others: list[Path]


def _split(folder: Path, root: Path, classes: list[str] | None) -> _Found:
    """Read the images of one split.

    Args:
        folder: has a sub-folder for each class.
        root: the dataset's folder, which the names of files begin from.
        classes: the names of all classes; None takes those of the sub-folders.
    """
    _refuse_loose_images(folder)
    folders = {_class_name(path): path for path in _folders(folder)}
    if len(folders) < len(_folders(folder)):
        raise DataError(f"{folder} has two folders of one name that differ in the form of their Unicode: merge them")
    names = sorted(folders) if classes is None else classes
    paths: list[Path] = []
    labels: list[int] = []
    others = [path for path in folder.iterdir() if not path.is_dir() and not _ignored(path)]
    for name, path in folders.items():
        if name not in names:
            raise DataError(f"{_shown(path)} is a class without training images: the classes are {_listed(names)}")
        _refuse_nested_images(path, name)
        files = sorted(file for file in path.iterdir() if not _ignored(file) and not file.is_dir())
        found = [file for file in files if _is_image(file)]
        others += [file for file in files if not _is_image(file)]
        paths += found
        labels += [names.index(name)] * len(found)
    identity = hashlib.sha256()
    for file in paths:
        try:
            state = file.stat()
        except OSError:  # a link to nowhere; reading it will tell
            state = file.lstat()
        # Two files of one size and time may change places; that changes the time of their change (ctime).
        identity.update(os.fsencode(file) + f"\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}\0".encode())
    shown = [_shown(file.relative_to(root).as_posix()) for file in paths]
    encoded = Encoded(identity.hexdigest(), shown, np.array(labels, np.int64), lambda i: paths[i].read_bytes())
    return _Found(names, encoded, others)


def _notes(folder: Path, splits: Iterable[_Found]) -> tuple[str, ...]:
    """Say which files were left out, and which classes are easily confused."""
    notes = []
    splits = list(splits)
    if others := [path for found in splits for path in found.others]:
        kinds = Counter(path.suffix.lower() or "no extension" for path in others)
        listed = _listed([f"{count:,} {_shown(kind)}" for kind, count in kinds.most_common()])
        notes.append(
            f"{len(others):,} of {len(others) + sum(len(found.encoded) for found in splits):,} files are not images "
            f"that Pillow reads and are left out ({listed}), among them {_shown(min(others).relative_to(folder))}"
            + (" (`pip install pillow-heif` reads .heic)" if ".heic" in kinds else "")
        )
    alike: dict[str, list[str]] = {}
    for name in splits[0].classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    groups = (" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1)
    return (*notes, *(f"{group} differ in case or spaces alone and are kept apart" for group in groups))


def _has_splits(top: list[Path]) -> bool:
    """Tell folders of splits from classes: a class may be called "train", but has no folders of images in it."""
    splits = [path for path in top if path.name.lower() in SPLITS]
    others = [path for path in top if path.name.lower() not in SPLITS]
    if not splits or any(_holds_images(path) for path in others):
        return False
    return not others or any(_holds_images(label) for path in splits for label in _folders(path))


def _classes_lie_in(folder: Path) -> bool:
    """Tell whether a folder has at least two folders of images that are not all called like splits."""
    found = [path for path in _folders(folder) if _holds_images(path)]
    return len(found) >= 2 and not all(path.name.lower() in SPLITS for path in found)


def _holds_classes(folder: Path) -> bool:
    """Tell whether a folder has folders of classes, or of splits with such folders."""
    return _classes_lie_in(folder) or (_has_splits(_folders(folder)) and any(map(_classes_lie_in, _folders(folder))))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _ignored(path))


def _ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in CLUTTER


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, folder.iterdir()))


def _refuse_loose_images(folder: Path) -> None:
    if loose := [path for path in folder.iterdir() if _is_image(path)]:
        raise DataError(f"{_shown(min(loose))} is in no class: each class needs a sub-folder of {folder}")


def _refuse_nested_images(folder: Path, name: str) -> None:
    """Refuse images below a class's folder: whether their folder is a class or a part of one, nobody can tell."""
    for nested in _folders(folder):
        if any(_is_image(path) for path in nested.rglob("*")):
            raise DataError(
                f"{_shown(nested)} is a folder within a class: the images of class {name!r} must be in "
                f"{_shown(folder)} itself (folders of splits are called {', '.join(SPLITS)})"
            )


def _class_name(folder: Path) -> str:
    """The class of a folder, the same on systems that compose Unicode and on those that do not."""
    name = unicodedata.normalize("NFC", folder.name)
    if not name.isprintable():  # also bytes that are no UTF-8
        raise DataError(
            f"the folder {_shown(folder)!r} cannot be a class: its name has control characters or is not UTF-8"
        )
    return name


def _is_image(path: Path) -> bool:
    """Tell an image by its name. A link to nowhere is one too: the image that it stands for is missing."""
    return path.suffix.lower() in _extensions() and not _ignored(path) and (path.is_file() or not path.exists())


@cache
def _extensions() -> set[str]:
    """List the file extensions of all formats that Pillow reads."""
    formats = PIL.Image.registered_extensions()  # loads the plugins
    return {extension for extension, name in formats.items() if name in PIL.Image.OPEN}


def _shown(path: Path | str) -> str:
    """A path as text that can be printed: bytes that are no UTF-8, line ends and the like are escaped."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape", "surrogatepass").decode()


def _listed(names: list[str]) -> str:
    """The first names of a list, and how many there are more."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
