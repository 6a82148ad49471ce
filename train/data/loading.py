"""Load a dataset as uint8 tensors: from the Hub, from a folder in the Hub's layout, or from a folder of images.

`datasets.load_dataset` reads `ylecun/mnist`, a local copy of it and `train/samples`; `image_folder.py` reads a folder
of the user's own images. All images are decoded once (`decoding.py`) and are small enough to be held on the training
device together.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch

from train.data import decoding, image_folder
from train.data.reference import DataError, DatasetRef, resolve

VALIDATION_SEED = 0
# Share of the training split that is held out for validation; the paper's datasets have their own.
VALIDATION_SHARE = 0.1
# Names of columns that may hold labels as plain numbers or words.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")


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
    """The three splits of a dataset and the names of its classes, in the order of the labels."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def digest(self) -> str:
        """Compute the SHA-256 of all images and labels: it differs for other data and for other splits of it."""
        sha256 = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                sha256.update(str(tuple(tensor.shape)).encode())
                sha256.update(tensor.contiguous().numpy().data)
        return sha256.hexdigest()


def load(dataset: str, data_dir: Path | None = None, image_size: int | None = None) -> Dataset:
    """Load a dataset and hold out its validation split; without a test split, hold out that too.

    Args:
        dataset: as `reference.resolve` takes it. On the Hub, a dataset needs an image and a label column. Where labels
            are numbers or words without class names, those of the training split are the classes, sorted.
        data_dir: holds `mnist/` and `cifar10/` in the Hub's layout; default `ZOO_DATA_DIR`, without it the Hub.
        image_size: side in pixels to which images are cropped and resized; MNIST and CIFAR-10 keep their own size.

    Raises:
        DataError: the dataset cannot be found or read, or a class has no image left to train or to test on.
    """
    ref = resolve(dataset)
    splits = _splits(ref, data_dir)
    image_column, label_column = _columns(ref.name, splits["train"].features)
    classes = _classes(splits["train"], label_column)
    decode = partial(
        decoding.decode,
        name=ref.name,
        image_column=image_column,
        label_column=label_column,
        classes=classes,
        size=None if ref.paper else image_size,
    )
    # A test split whose labels are secret is replaced by one for validation.
    test_split = next(
        (splits[name] for name in ("test", "validation") if name in splits and not _secret(splits[name], label_column)),
        None,
    )
    train_images, train_labels = decode(splits["train"])
    test_images, test_labels = (None, None) if test_split is None else decode(test_split)
    # Class names without an image are dropped, and the others numbered without gaps.
    used = np.unique(train_labels if test_labels is None else np.concatenate([train_labels, test_labels]))
    if len(used) < 2:
        raise DataError(
            f"dataset {ref.name!r} needs images of at least two classes (in a folder: a sub-folder for each); it has "
            f"{len(used)}"
        )
    class_names = tuple(str(classes[i]) for i in used)
    whole = _split(train_images, train_labels, used)
    given = None if test_images is None or test_labels is None else _split(test_images, test_labels, used)
    train, validation, test = _cut(whole, given, _validation_share(ref))
    if min(map(len, (train, validation, test))) == 0:
        raise DataError(
            f"dataset {ref.name!r} has only {len(whole)} training images of {len(class_names)} classes: too few to cut "
            "a validation split; three of each class are enough"
        )
    _require_every_class(ref.name, class_names, train, "train")
    _require_every_class(ref.name, class_names, test, "test")
    return Dataset(ref.name, class_names, train, validation, test)


def _splits(ref: DatasetRef, data_dir: Path | None) -> datasets.DatasetDict:
    """Read the splits of a dataset, one of them "train", as the `datasets` library does; images stay encoded."""
    source = _source(ref, data_dir)
    is_folder = Path(source).is_dir()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # a DataError says what is wrong
    if is_folder:
        datasets.disable_progress_bars()  # they are for downloads
    else:
        datasets.enable_progress_bars()
    try:
        if is_folder and image_folder.is_image_folder(Path(source)):
            splits = image_folder.load(Path(source))
        else:
            splits = datasets.load_dataset(source, ref.configuration)
    except DataError as error:
        raise DataError(f"dataset {ref.name!r}: {error}") from error
    except Exception as error:  # the library raises a dozen types, among them pyarrow's and huggingface_hub's
        raise DataError(f"cannot load dataset {ref.name!r} from {source}: {_root_cause(error)}") from error
    if "train" not in splits:
        raise DataError(f"dataset {ref.name!r} has no split 'train', only {', '.join(map(repr, splits))}")
    return splits


def _source(ref: DatasetRef, data_dir: Path | None) -> str:
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


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _columns(name: str, features: datasets.Features) -> tuple[str, str]:
    """Find the column of images and the column of labels."""

    def first(kind: type) -> str | None:
        return next((column for column, feature in features.items() if isinstance(feature, kind)), None)

    image, label = first(datasets.Image), first(datasets.ClassLabel)
    if label is None:
        label = next((column for column in LABEL_COLUMNS if isinstance(features.get(column), datasets.Value)), None)
    if image is None or label is None:
        found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise DataError(
            f"dataset {name!r} needs an Image column, and a ClassLabel column or one called "
            f"{', '.join(LABEL_COLUMNS)} (a folder of images: at least two sub-folders, one for each class); it has "
            f"{found}"
        )
    return image, label


def _classes(train: datasets.Dataset, label_column: str) -> list[str] | list[int]:
    """List the classes in the order of their label numbers."""
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    return sorted(value for value in train.unique(label_column) if value is not None)


def _secret(split: datasets.Dataset, label_column: str) -> bool:
    """Tell whether a split's labels are withheld, as those of a competition's test split are."""
    return set(split.unique(label_column)) <= {-1, None}


def _split(images: np.ndarray, labels: np.ndarray, used: np.ndarray) -> Split:
    """Make a split whose labels number the used classes alone."""
    return Split(torch.from_numpy(images), torch.from_numpy(np.searchsorted(used, labels)))


def _validation_share(ref: DatasetRef) -> float:
    return ref.paper.validation_images / ref.paper.train_images if ref.paper else VALIDATION_SHARE


def _cut(train: Split, test: Split | None, fraction: float) -> tuple[Split, Split, Split]:
    """Cut the training images into splits, with a fixed seed.

    Args:
        train: all images that are not in the test split.
        test: the dataset's own test split; None cuts one that is as large as the validation split.
        fraction: the share of the training images that the validation split gets.

    Returns:
        The splits to train, to validate and to test on.
    """
    labels = train.labels.numpy()
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(labels))
    n = round(len(labels) * fraction)
    if test is None:  # it gets the first image of each class
        _, first = np.unique(labels[order], return_index=True)
        others = np.delete(np.arange(len(order)), first)
        chosen = np.sort(np.append(first, others[: max(0, n - len(first))]))
        test = train.take(order[chosen])
        order = np.delete(order, chosen)
    held_out, remaining = order[:n], order[n:]
    # A class whose remaining images are all held out gives one of them back to train on.
    _, first = np.unique(labels[held_out], return_index=True)
    only = first[~np.isin(labels[held_out][first], labels[remaining])]
    remaining = np.append(remaining, held_out[only])
    held_out = np.delete(held_out, only)
    return train.take(np.sort(remaining)), train.take(np.sort(held_out)), test


def _require_every_class(name: str, class_names: tuple[str, ...], split: Split, purpose: str) -> None:
    """Refuse a split without an image of some class: it could not be learnt, or would have no accuracy."""
    missing = np.setdiff1d(np.arange(len(class_names)), split.labels.numpy())
    if len(missing):
        more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"dataset {name!r} has no image of class {class_names[missing[0]]!r}{more} left to {purpose} on: add some, "
            "or remove the class"
        )
