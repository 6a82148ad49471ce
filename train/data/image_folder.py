"""A folder of pictures as splits of a dataset: a sub-folder for each class, if need be below one for each split.

`datasets` guesses splits and classes from words in the names of folders and files ("train_3.png"), and leaves out what
does not fit its guess. Here a picture's class is the folder that it lies in, whatever the names of files are.
"""

import hashlib
import logging
from functools import cache
from pathlib import Path

import datasets
import PIL.Image

from train.errors import UserError

# What the folders of splits are called, in any case.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")
logger = logging.getLogger(__name__)


class PicturesError(UserError):
    """A folder of pictures that is not ordered by class."""


def is_folder_of_pictures(folder: Path) -> bool:
    """Whether a folder holds pictures by class; not tables, as a dataset downloaded from the Hub does."""
    places = ("*", "data/*", "*/*.parquet", "*/*/*.parquet", "*/metadata.*")
    tables = (path for place in places for path in folder.glob(place))
    return any(_folders(folder)) and not any(path.suffix in TABLES for path in tables)


def load(folder: Path) -> datasets.DatasetDict:
    """The splits of a folder of pictures, with the columns `image` and `label`, in the order of names.

    All are of one split, "train", unless its folders are called as splits are ("train", "Test", "val", ...). What is no
    picture is left out, with a warning that names the first such file; hidden files and folders are without one.

    Raises:
        PicturesError: there are folders within a class, or pictures outside of one, or in `test` a class that `train`
            has not.
    """
    top = _folders(folder)
    names = {path: SPLITS.get(path.name.lower()) for path in top}
    if "train" not in names.values() or None in names.values():  # a class may be called "train"
        return datasets.DatasetDict(train=_split(folder, None))
    classes = sorted(label.name for path in top if names[path] == "train" for label in _folders(path))
    if len(set(names.values())) < len(names):
        raise PicturesError(f"{folder} has two folders for one split: {', '.join(sorted(path.name for path in top))}")
    return datasets.DatasetDict({str(names[path]): _split(path, classes) for path in top})


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _split(folder: Path, classes: list[str] | None) -> datasets.Dataset:
    """The pictures of one split, a sub-folder for each class.

    Args:
        classes: the names of all; None: those of the sub-folders.
    """
    if loose := [path for path in folder.iterdir() if _is_picture(path)]:
        raise PicturesError(f"{min(loose)} is in no class: each class needs a sub-folder of {folder}")
    paths: list[Path] = []
    others: list[Path] = []
    labels: list[int] = []
    names = [path.name for path in _folders(folder)] if classes is None else classes
    for label in _folders(folder):
        if label.name not in names:
            raise PicturesError(f"{label} is a class that the training pictures have not")
        if nested := _folders(label):
            raise PicturesError(
                f"{nested[0]} is a folder within a class: the pictures of class {label.name!r} have to lie in {label} "
                f"itself (folders of splits are called {', '.join(SPLITS)})"
            )
        files = sorted(path for path in label.iterdir() if not _hidden(path))
        found = [path for path in files if _is_picture(path)]
        others += [path for path in files if not _is_picture(path)]
        paths += found
        labels += [names.index(label.name)] * len(found)
    if others:
        logger.warning(
            "%s of %s files are no pictures that Pillow reads, and are left out, %s for one",
            f"{len(others):,}", f"{len(others) + len(paths):,}", others[0],
        )  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    split = datasets.Dataset.from_dict({"image": list(map(str, paths)), "label": labels}, features=features)
    # By what the files are, not by their names alone: what is decoded is kept by this.
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    split._fingerprint = digest.hexdigest()
    return split


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _extensions() and not _hidden(path)


@cache
def _extensions() -> set[str]:
    """Of the formats that Pillow reads."""
    formats = PIL.Image.registered_extensions()  # which loads the plugins
    return {extension for extension, name in formats.items() if name in PIL.Image.OPEN}
