"""Cut splits: an image of one's own by a hash of its content, the paper's datasets by one fixed permutation.

By content, an image's split stays what it was when others are added or removed, whatever its file is called, and
images with the same content are in the same split. Speech Commands and others cut theirs in this way, by the name.
"""

import numpy as np

TRAIN, VALIDATION, TEST = range(3)


def by_content(
    digests: np.ndarray, labels: np.ndarray, validation_share: float | None, test_share: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut images into splits to train, to validate and to test on.

    A digest is a number from 0 to 1: the lowest are tested on, the highest validated on. Where that leaves a split
    without an image of a class, it gets the nearest one. So an image that is added may bring such an image back to the
    training split, but takes none from there.

    Args:
        digests: uint8 [n, 32], a hash of each image's content.
        labels: int64 [n]; the same content has the same label.
        validation_share: of all images; None where the split is given.
        test_share: of all images; None where the split is given.

    Returns:
        The positions of each split's images, in order.
    """
    positions = np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0] / 2.0**64
    splits = np.full(len(labels), TRAIN)
    for label in np.unique(labels):
        mine = labels == label
        contents, content = np.unique(positions[mine], return_inverse=True)
        splits[mine] = _cut_class(contents, validation_share, test_share)[content]
    train, validation, test = (np.flatnonzero(splits == split) for split in (TRAIN, VALIDATION, TEST))
    return train, validation, test


def _cut_class(contents: np.ndarray, validation_share: float | None, test_share: float | None) -> np.ndarray:
    """Choose the split of each of a class's contents, which are sorted. First come test, then training images."""
    n = len(contents)
    splits = np.full(n, TRAIN)
    if validation_share is not None:
        splits[contents >= 1 - validation_share] = VALIDATION
        if n >= (2 if test_share is None else 3):
            splits[-1] = VALIDATION
    if test_share is not None:
        splits[contents < test_share] = TEST
        if n >= 2:
            splits[0] = TEST
    if not (splits == TRAIN).any():
        splits[0 if test_share is None or n == 1 else 1] = TRAIN
    return splits


def contradictory(digests: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find images whose content is in several classes: bool [n]."""
    _, content = np.unique(digests.view("V32")[:, 0], return_inverse=True)
    lowest = np.full(content.max() + 1, labels.max())
    highest = np.zeros_like(lowest)
    np.minimum.at(lowest, content, labels)
    np.maximum.at(highest, content, labels)
    found: np.ndarray = (lowest != highest)[content]
    return found


def by_permutation(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a validation split of exactly this share; every class keeps an image to train on.

    Returns:
        The positions of the images to train and to validate on, in order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    n = round(len(labels) * share)
    held_out, remaining = order[:n], order[n:]
    # A class whose remaining images are all held out gives one of them back to train on.
    _, first = np.unique(labels[held_out], return_index=True)
    only = first[~np.isin(labels[held_out][first], labels[remaining])]
    return np.sort(np.append(remaining, held_out[only])), np.sort(np.delete(held_out, only))
