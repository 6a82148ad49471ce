"""Read a folder of images as splits: a sub-folder for each class, or for each split with one for each class below it.

The `datasets` library guesses splits and classes from words in the names of folders and files ("train_3.png"), and
leaves out files that do not fit its guess. Here an image's class is its folder, whatever its file is called.
"""

import hashlib
import logging
from functools import cache
from pathlib import Path

import datasets
import PIL.Image

from train.data.reference import DataError

# Names of the folders of splits, in lower case; upper case is read too.
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


def is_image_folder(folder: Path) -> bool:
    """Tell a folder of images from a dataset that was downloaded from the Hub, which holds tables."""
    places = ("*", "data/*", "*/*.parquet", "*/*/*.parquet", "*/metadata.*")
    tables = (path for place in places for path in folder.glob(place))
    return any(_folders(folder)) and not any(path.suffix in TABLES for path in tables)


def load(folder: Path) -> datasets.DatasetDict:
    """Read the splits of a folder of images, with the columns `image` and `label`, sorted by path.

    All images are in one split, "train", unless the sub-folders have the names of splits ("train", "Test", "val", ...).
    Other files are left out, with a warning that names the first of them; hidden files and folders without one.

    Raises:
        DataError: a class has sub-folders, an image is in no class, or `test` has a class that `train` lacks.
    """
    top = _folders(folder)
    names = {path: SPLITS.get(path.name.lower()) for path in top}
    if "train" not in names.values() or None in names.values():  # a class may be called "train"
        return datasets.DatasetDict(train=_split(folder, None))
    classes = sorted(label.name for path in top if names[path] == "train" for label in _folders(path))
    if len(set(names.values())) < len(names):
        raise DataError(f"{folder} has two folders for one split: {', '.join(sorted(path.name for path in top))}")
    return datasets.DatasetDict({str(names[path]): _split(path, classes) for path in top})


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _split(folder: Path, classes: list[str] | None) -> datasets.Dataset:
    """Read the images of one split.

    Args:
        folder: has a sub-folder for each class.
        classes: the names of all classes; None takes those of the sub-folders.
    """
    if loose := [path for path in folder.iterdir() if _is_image(path)]:
        raise DataError(f"{min(loose)} is in no class: each class needs a sub-folder of {folder}")
    paths: list[Path] = []
    others: list[Path] = []
    labels: list[int] = []
    names = [path.name for path in _folders(folder)] if classes is None else classes
    for label in _folders(folder):
        if label.name not in names:
            raise DataError(f"{label} is a class without training images")
        if nested := _folders(label):
            raise DataError(
                f"{nested[0]} is a folder within a class: the images of class {label.name!r} must be in {label} itself "
                f"(folders of splits are called {', '.join(SPLITS)})"
            )
        files = sorted(path for path in label.iterdir() if not _hidden(path))
        found = [path for path in files if _is_image(path)]
        others += [path for path in files if not _is_image(path)]
        paths += found
        labels += [names.index(label.name)] * len(found)
    if others:
        logger.warning(
            "%s of %s files are not images that Pillow reads and are left out, among them %s",
            f"{len(others):,}", f"{len(others) + len(paths):,}", others[0],
        )  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    split = datasets.Dataset.from_dict({"image": list(map(str, paths)), "label": labels}, features=features)
    # The cache of decoded images goes by the fingerprint: it has to change with the files.
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    split._fingerprint = digest.hexdigest()
    return split


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _extensions() and not _hidden(path)


@cache
def _extensions() -> set[str]:
    """List the file extensions of all formats that Pillow reads."""
    formats = PIL.Image.registered_extensions()  # loads the plugins
    return {extension for extension, name in formats.items() if name in PIL.Image.OPEN}
