"""A dataset before its images are decoded: what `image_folder.py` and `tables.py` make, and `loading.py` reads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """The images of one split, encoded, and their labels.

    Attributes:
        identity: a text that changes whenever an image or the order of the images does.
        files: the name of each image, for messages and for the list of what a run saw.
        labels: int64 [n], positions in `Source.classes`.
        read: gives the bytes of one image, by its position.
    """

    identity: str
    files: list[str]
    labels: np.ndarray
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Source:
    """A dataset's splits as they are given, and its classes.

    Attributes:
        classes: in the order of the labels; some may have no image.
        splits: "train", and "validation" and "test" where they are given.
        notes: what was decided or left out, each in a few words.
    """

    classes: list[str]
    splits: dict[str, Encoded]
    notes: tuple[str, ...] = ()
