"""`logits.npz`, a run's logits of its validation and test split, so that it can be analysed without its weights."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.files import atomic_write

NAME = "logits.npz"
SPLITS = ("validation", "test")


class LogitsError(UserError):
    """A file of logits is missing or damaged."""


@dataclass(frozen=True, eq=False)
class Logits:
    """A model's logits of a split.

    Attributes:
        logits: float32 [n, classes].
        labels: int64 [n], the true classes.
    """

    logits: np.ndarray
    labels: np.ndarray


def write(file: Path, validation: Logits, test: Logits) -> None:
    """Write the logits of both splits, compressed: half a megabyte for 15,000 images of 10 classes."""
    arrays = {}
    for name, split in zip(SPLITS, (validation, test), strict=True):
        arrays[f"{name}_logits"] = split.logits.astype(np.float32)
        arrays[f"{name}_labels"] = split.labels.astype(np.int64)
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read(file: Path) -> tuple[Logits, Logits]:
    """Read the logits of the validation and of the test split.

    Raises:
        LogitsError: there are none, or the file is damaged.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = [Logits(arrays[f"{name}_logits"], arrays[f"{name}_labels"]) for name in SPLITS]
    except FileNotFoundError:
        raise LogitsError(f"{file} is missing: train/fit.py writes it at the end of a run") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LogitsError(f"{file} is damaged: {error}") from error
    for name, split in zip(SPLITS, found, strict=True):
        if split.logits.ndim != 2 or split.labels.shape != split.logits.shape[:1]:
            shapes = f"{split.logits.shape} logits and {split.labels.shape} labels"
            raise LogitsError(f"{file} is damaged: it has {shapes} of the {name} split")
    return found[0], found[1]
