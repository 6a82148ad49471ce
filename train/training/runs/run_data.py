"""The dataset of a finished run or a card, found again and checked."""

import os
from pathlib import Path

from train.data import loading
from train.data.reference import DataError


def data_folder(title: str, recorded: str | None, given: Path | None) -> Path | None:
    """Choose the data folder for a run's dataset: the given one, `ZOO_DATA_DIR`, or else the one that the run used.

    Args:
        title: of the run, for the error.
        recorded: the folder that the run used, if it recorded one.
        given: of `--data-dir`.

    Returns:
        The folder as `loading.load` takes it.

    Raises:
        DataError: the run's folder is needed and is gone.
    """
    if given is not None or os.environ.get("ZOO_DATA_DIR") or recorded is None:
        return given
    if not Path(recorded).is_dir():
        raise DataError(f"{title} read its dataset from {recorded}, which is gone: name the folder by --data-dir")
    return Path(recorded)


def require_same_data(title: str, class_names: list[str], channels: int, dataset: loading.Dataset) -> None:
    """Check that a dataset has the classes that a network was trained on, in the same order, and its input channels.

    Args:
        title: of the network, for the error.
        class_names: that the network was trained on, in the order of its outputs.
        channels: that the network takes.
        dataset: to use the network on.

    Raises:
        DataError: it has other classes, or images of other channels.
    """
    found = list(dataset.class_names)
    if found != class_names:
        theirs, its = _few(found, class_names), _few(class_names, found)
        raise DataError(
            f"{title} was trained on {len(class_names)} classes ({its}); dataset {dataset.name!r} has {len(found)} "
            f"({theirs}): it needs the same ones in the same order"
        )
    if (given := dataset.test.images.shape[1]) != channels:
        raise DataError(f"{title} takes images of {channels} channels, those of dataset {dataset.name!r} have {given}")


def _few(names: list[str], others: list[str], most: int = 10) -> str:
    """List a few class names, the first that differs from the others' among them."""
    first = next((i for i, name in enumerate(names) if others[i : i + 1] != [name]), len(names))
    start = max(0, min(first - 1, len(names) - most))
    end = start + most
    return ("..., " if start else "") + ", ".join(names[start:end]) + (", ..." if end < len(names) else "")
