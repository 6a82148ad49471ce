"""Load a dataset as uint8 tensors: from the Hub, from a folder in the Hub's layout, or from a folder of images.

`tables.py` reads `ylecun/mnist`, a local copy of it and `train/samples`; `image_folder.py` reads a folder of the user's
own images. All images are decoded once (`decoding.py`) and are small enough to be held on the training device
together. `splitting.py` cuts the splits that are not given.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.data import decoding, image_folder, splitting
from train.data.encoded import Encoded, Source
from train.data.manifest import Row
from train.data.reference import DataError, DataOptions, DatasetRef, recorded, resolve

# Of the paper's datasets.
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, channels, height, width] and their labels int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Copy the split to a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: np.ndarray | slice) -> "Split":
        """Select some of the images, in the order of `index`."""
        return Split(self.images[index], self.labels[index])

    def spread(self, count: int) -> "Split":
        """Select at most `count` images at even distances: of all classes, even where they are sorted by class."""
        return self.take(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))


@dataclass(frozen=True)
class Dataset:
    """The three splits of a dataset and the names of its classes, in the order of the labels.

    Attributes:
        files: a row for each image; none for the paper's datasets, which are known.
        notes: what was decided or left out, each in a few words.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    files: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Compute the SHA-256 of all images and labels: it differs for other data and for other splits of it."""
        sha256 = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                sha256.update(str(tuple(tensor.shape)).encode())
                sha256.update(tensor.contiguous().numpy().data)
        return sha256.hexdigest()

    def summary(self) -> str:
        """Say in one line what was read: classes, sizes of the splits, and what was left out."""
        splits = (self.train, self.validation, self.test)
        counts = torch.cat([split.labels for split in splits]).bincount(minlength=len(self.class_names))
        each = f"{counts.min():,}" + (f" to {counts.max():,}" if counts.min() < counts.max() else "")
        train, validation, test = map(len, splits)
        return (
            f"Read {train + validation + test:,} images of {len(self.class_names):,} classes ({each} in each class): "
            f"{train:,} to train, {validation:,} to validate, {test:,} to test"
            + "".join(f"; {note}" for note in self.notes)
        )


def load(
    dataset: str, data_dir: Path | None = None, image_size: int | None = None, options: DataOptions | None = None
) -> Dataset:
    """Load a dataset. Splits to validate and to test on are cut from the training split where they are not given.

    Args:
        dataset: as `reference.resolve` takes it. On the Hub, a dataset needs an image and a label column. Where labels
            are numbers or words without class names, those of the training split are the classes, sorted.
        data_dir: holds `mnist/` and `cifar10/` in the Hub's layout; default `ZOO_DATA_DIR`, without it the Hub.
        image_size: side in pixels to which images are cropped and resized; MNIST and CIFAR-10 keep their own size.
        options: how to read a dataset of one's own; None is by default.

    Raises:
        DataError: the dataset cannot be found or read, or a class has no image left to train or to test on.
    """
    ref = resolve(dataset)
    options = options or DataOptions()
    if ref.paper and options.given():
        raise DataError(f"{options.given()[0]}: dataset {ref.name!r} is read and split as in the paper")
    source = _source(ref, data_dir, options)
    for split, field in (("validation", "validation_share"), ("test", "test_share")):
        if split in source.splits and options.given(field):
            raise DataError(f"{options.given(field)[0]}: dataset {ref.name!r} has a {split} split of its own")
    size = None if ref.paper else image_size
    parts = {split: _decoded(ref, encoded, size, options) for split, encoded in source.splits.items()}
    notes = [*source.notes, *(note for part in parts.values() for note in part.notes)]
    if not ref.paper:
        parts["train"] = _without_contradictions(parts["train"], notes)
        _note_leaks(parts, notes)
    # Class names without an image are dropped, and the others numbered without gaps.
    used = np.unique(np.concatenate([part.labels for part in parts.values()]))
    class_names = tuple(source.classes[i] for i in used)
    if len(used) < 2:
        raise DataError(
            f"dataset {ref.name!r} needs images of at least two classes (in a folder: a sub-folder for each); it has "
            f"{len(used)}"
        )
    if empty := [name for i, name in enumerate(source.classes) if i not in set(used.tolist())]:
        notes.append(f"classes without images are left out: {', '.join(map(repr, empty[:5]))}"[:200])
    whole = len(parts["train"].labels)
    _cut(ref, parts, options)
    for split in ("train", "test"):
        _require_every_class(ref.name, source.classes, used, parts[split].labels, split)
    if not len(parts["validation"].labels):
        raise DataError(
            f"dataset {ref.name!r} has only {whole} training images of {len(used)} classes: too few to cut "
            "a validation split; three of each class are enough"
        )
    splits = {split: _split(parts[split], used) for split in ("train", "validation", "test")}
    files = () if ref.paper else tuple(row for split in splits for row in parts[split].rows(source.classes, split))
    return Dataset(ref.name, class_names, **splits, files=files, notes=tuple(notes))


def _source(ref: DatasetRef, data_dir: Path | None, options: DataOptions) -> Source:
    """Read what a dataset holds; images stay encoded."""
    place = _place(ref, data_dir)
    # A card calls a folder by its name.
    if ref.folder and recorded(ref.published_name.lower()).paper:
        name = ref.published_name
        raise DataError(
            f"the folder {ref.name!r} is called like the paper's dataset: rename it, or use --dataset {name.lower()} "
            f"--data-dir {ref.folder.parent} if it holds that dataset"
        )
    if ref.paper or not Path(place).is_dir() or not image_folder.is_image_folder(Path(place)):
        from train.data import tables  # imports `datasets`, which takes long

        return tables.load(ref.name, place, ref.configuration, options)
    if of_tables := options.given("image_column", "label_column", "split"):
        raise DataError(f"{of_tables[0]}: {ref.name!r} is a folder with a sub-folder for each class, and no table")
    try:
        return image_folder.load(Path(place))
    except DataError as error:
        raise DataError(f"dataset {ref.name!r}: {error}") from error


def _place(ref: DatasetRef, data_dir: Path | None) -> str:
    """Where to load a dataset from: a folder, or a Hub id."""
    if data_dir is None and os.environ.get("ZOO_DATA_DIR"):
        data_dir = Path(os.environ["ZOO_DATA_DIR"])
    if ref.paper and data_dir is not None:
        folder = data_dir / ref.name
        if not folder.is_dir():
            raise DataError(f"no folder {ref.name!r} in the data folder {data_dir}: it must hold 'mnist' and 'cifar10'")
        return str(folder)
    if ref.folder:
        if not ref.folder.is_dir():
            raise DataError(
                f"no folder {ref.name!r} here: where a run or a card names it, change `dataset` in its args.json or "
                "its config.json"
            )
        return str(ref.folder)
    if ref.hub_id:
        return ref.hub_id
    if ref.name.startswith("."):
        raise DataError(f"no folder {ref.name!r} here")
    raise DataError(
        f"unknown dataset {ref.name!r}: valid are 'mnist', 'cifar10', a folder of images, or a Hub id 'owner/name' or "
        "'owner/name:configuration'"
    )


def recorded_data_dir(dataset: str, data_dir: Path | None) -> str | None:
    """Return the folder that `load` reads one of the paper's datasets from, for a run to record; None for all others.

    Args:
        dataset: as `load` takes it.
        data_dir: as `load` takes it.
    """
    folder = data_dir or os.environ.get("ZOO_DATA_DIR")
    return str(Path(folder).resolve()) if folder and resolve(dataset).paper else None


@dataclass(frozen=True)
class _Part:
    """The decoded images of a split, and what is known of each."""

    images: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    files: np.ndarray
    notes: tuple[str, ...] = ()

    def take(self, index: np.ndarray) -> "_Part":
        return _Part(self.images[index], self.labels[index], self.digests[index], self.files[index])

    def rows(self, classes: list[str], split: str) -> list[Row]:
        return [
            Row(str(file), digest.tobytes().hex()[:16], classes[label], split)
            for file, digest, label in zip(self.files, self.digests, self.labels, strict=True)
        ]


def _decoded(ref: DatasetRef, encoded: Encoded, size: int | None, options: DataOptions) -> _Part:
    found = decoding.decode(encoded, name=ref.name, size=size, skip_unreadable=options.skip_unreadable)
    notes = [
        f"{len(found.unreadable):,} of {len(encoded):,} images cannot be read and are left out, among them {first}"
        for first in found.unreadable[:1]
    ]
    files = np.array(encoded.files, dtype=object)
    return _Part(found.images, encoded.labels[found.kept], found.digests, files[found.kept], tuple(notes))


def _without_contradictions(train: _Part, notes: list[str]) -> _Part:
    """Leave out images that are in several classes: they have no right label, and no split."""
    wrong = splitting.contradictory(train.digests, train.labels)
    if not wrong.any():
        return train
    first = np.flatnonzero(wrong)[0]
    same = np.flatnonzero((train.digests == train.digests[first]).all(1))[:2]
    notes.append(
        f"{wrong.sum():,} images that are the same in several classes are left out, among them "
        f"{' and '.join(train.files[same])}"
    )
    return train.take(np.flatnonzero(~wrong))


def _note_leaks(parts: dict[str, _Part], notes: list[str]) -> None:
    """Say how many images of a given split are in the training split too."""
    known = {digest.tobytes() for digest in parts["train"].digests}
    for split, part in parts.items():
        leaked = [i for i, digest in enumerate(part.digests) if digest.tobytes() in known]
        if split != "train" and leaked:
            notes.append(f"{len(leaked):,} {split} images are in the training split too, as {part.files[leaked[0]]}")


def _cut(ref: DatasetRef, parts: dict[str, _Part], options: DataOptions) -> None:
    """Cut the splits that are not given from the training split."""
    train = parts["train"]
    if ref.paper:
        if "test" not in parts:
            raise DataError(f"dataset {ref.name!r} has no split 'test'")
        share = ref.paper.validation_images / ref.paper.train_images
        kept, held_out = splitting.by_permutation(train.labels, share, VALIDATION_SEED)
        parts |= {"train": train.take(kept), "validation": train.take(held_out)}
        return
    validation, test = options.shares
    cuts = splitting.by_content(
        train.digests,
        train.labels,
        None if "validation" in parts else validation,
        None if "test" in parts else test,
    )
    for split, index in zip(("train", "validation", "test"), cuts, strict=True):
        if split == "train" or split not in parts:
            parts[split] = train.take(index)


def _split(part: _Part, used: np.ndarray) -> Split:
    """Make a split whose labels number the used classes alone."""
    return Split(torch.from_numpy(part.images), torch.from_numpy(np.searchsorted(used, part.labels)))


def _require_every_class(name: str, classes: list[str], used: np.ndarray, labels: np.ndarray, purpose: str) -> None:
    """Refuse a split without an image of some class: it could not be learnt, or would have no accuracy."""
    missing = np.setdiff1d(used, labels)
    if len(missing):
        more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"dataset {name!r} has no image of class {classes[missing[0]]!r}{more} left to {purpose} on: add some "
            "(three different ones are enough), or remove the class"
        )
