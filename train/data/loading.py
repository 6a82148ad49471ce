"""Datasets as uint8 arrays: from a folder in the Hub's layout, from the Hub itself, or from a folder of pictures.

`datasets.load_dataset` serves `ylecun/mnist`, its local copy and `train/samples`; `image_folder.py` serves a folder of
one's own. The images are decoded once, kept beside the library's own cache, and are small enough to live on the
training device whole.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from train.data import image_folder
from train.errors import UserError
from train.files import replacing
from zoo.catalog import DATASETS

VALIDATION_SEED = 0
# Counts up when pictures come to be decoded in another way: what earlier ways have left in the cache is not read again.
DECODING = 2
# Where labels may be that are plain numbers or words.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")


class DataError(UserError):
    """A dataset that cannot be had or read."""


def tag(name: str) -> str:
    """The tag of models of a dataset: the last part of its name, or the whole name where the last part alone is that of
    one of the paper's datasets.
    """
    last = name.rpartition("/")[2]
    return (name if last in DATASETS else last).replace("/", "-").replace(":", "-")


def hub_id(name: str) -> str | None:
    """Where a dataset lies on the Hub, with its configuration behind a colon; None for a local folder."""
    if name in DATASETS:
        return DATASETS[name].hub_id
    return name if "/" in name else None


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, channels, height, width] and their labels int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: np.ndarray | slice) -> "Split":
        return Split(self.images[index], self.labels[index])

    def spread(self, count: int) -> "Split":
        """At most `count` images at even distances: of all classes, also where they come class by class, as in a
        folder.
        """
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
        """The SHA-256 of all images and labels: another dataset, or another cut of it, has another one."""
        sha256 = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                sha256.update(str(tuple(tensor.shape)).encode())
                sha256.update(tensor.contiguous().numpy().data)
        return sha256.hexdigest()


def load(name: str, data_dir: Path | None = None, image_size: int | None = None) -> Dataset:
    """Load a dataset and cut its validation split; where all pictures are in one split, a test split too.

    Args:
        name: "mnist", "cifar10", a folder of pictures (see `pictures.load`), or the Hub id of a dataset with an image
            and a label column, "owner/name" or "owner/name:configuration". Where labels are numbers or words without
            names of classes, those of the training split are the classes, in their order.
        data_dir: where `mnist/` and `cifar10/` lie, in the Hub's layout; default `ZOO_DATA_DIR`, without it the Hub.
        image_size: side in pixels to which pictures of differing sizes are cropped and resized; MNIST and CIFAR-10 keep
            their own.

    Raises:
        DataError: nothing is there, or it cannot be read, or a class has no picture to train or to test on.
    """
    source, configuration = _source(name, data_dir)
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said once, by us
    if Path(source).is_dir():
        datasets.disable_progress_bars()  # they are for downloads
    else:
        datasets.enable_progress_bars()
    try:
        if Path(source).is_dir() and image_folder.is_folder_of_pictures(Path(source)):
            splits = image_folder.load(Path(source))
        else:
            splits = datasets.load_dataset(source, configuration)
    except image_folder.PicturesError as error:
        raise DataError(f"dataset {name!r}: {error}") from error
    except Exception as error:  # the library raises a dozen types, among them pyarrow's and huggingface_hub's
        raise DataError(f"cannot load dataset {name!r} from {source}: {_root_cause(error)}") from error
    if "train" not in splits:
        raise DataError(f"dataset {name!r} has no split 'train', only {', '.join(map(repr, splits))}")

    image_column, label_column = _columns(name, splits["train"].features)
    classes = _classes(splits["train"], label_column)
    size = None if name in DATASETS else image_size
    decode = partial(
        _decode, image_column=image_column, label_column=label_column, classes=classes, name=name, size=size
    )
    held = [split for split in ("test", "validation") if split in splits]
    # Labels of a test split may be kept secret; a split for validation then has to do.
    test_name = next((split for split in held if not _secret(splits[split], label_column)), None)
    train = decode(splits["train"])
    test = None if test_name is None else decode(splits[test_name])
    # Names of classes that no picture has are left out.
    used = np.unique(np.concatenate([split.labels.numpy() for split in (train, test) if split is not None]))
    if len(used) < 2:
        raise DataError(
            f"dataset {name!r} needs pictures of at least two classes (in a folder: a sub-folder for each); it has "
            f"{len(used)}"
        )
    train = _numbered(train, used)
    test = None if test is None else _numbered(test, used)
    class_names = tuple(str(classes[i]) for i in used)
    cut = _cut(train, test, _validation_share(name))
    if min(map(len, cut)) == 0:
        raise DataError(
            f"dataset {name!r} has only {len(train)} training images of {len(class_names)} classes: too few to cut a "
            "validation split; three of each class are enough"
        )
    train, validation, test = cut
    for split, purpose in ((train, "train"), (test, "test")):
        missing = np.setdiff1d(np.arange(len(class_names)), split.labels.numpy())
        if len(missing):  # it could not be learnt, or has no accuracy
            more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"dataset {name!r} has no picture of class {class_names[missing[0]]!r}{more} left to {purpose} on: add "
                "some, or take the class out"
            )
    return Dataset(name, class_names, train, validation, test)


def _numbered(split: Split, used: np.ndarray) -> Split:
    """A split whose labels count the used ones alone."""
    return Split(split.images, torch.from_numpy(np.searchsorted(used, split.labels.numpy())))


def _cut(train: Split, test: Split | None, fraction: float) -> tuple[Split, Split, Split]:
    """Training, validation and test; without a split to test on, as much is cut for it as for validation.

    Args:
        fraction: of the training images that validation gets.
    """
    labels = train.labels.numpy()
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(labels))
    n = round(len(labels) * fraction)
    if test is None:  # the first of each class are in it
        _, first = np.unique(labels[order], return_index=True)
        others = np.delete(np.arange(len(order)), first)
        chosen = np.sort(np.append(first, others[: max(0, n - len(first))]))
        test = train.take(order[chosen])
        order = np.delete(order, chosen)
    held_out, remaining = order[:n], order[n:]
    # What has its last pictures among those held out is learnt from one of them.
    _, first = np.unique(labels[held_out], return_index=True)
    only = first[~np.isin(labels[held_out][first], labels[remaining])]
    remaining = np.append(remaining, held_out[only])
    held_out = np.delete(held_out, only)
    return train.take(np.sort(remaining)), train.take(np.sort(held_out)), test


def _validation_share(name: str) -> float:
    """How much of the training split is held out for validation."""
    if name in DATASETS:
        return DATASETS[name].validation_images / DATASETS[name].train_images
    return 0.1


def _source(name: str, data_dir: Path | None) -> tuple[str, str | None]:
    """What to load, and which configuration of it."""
    if data_dir is None and os.environ.get("ZOO_DATA_DIR"):
        data_dir = Path(os.environ["ZOO_DATA_DIR"])
    if name in DATASETS:
        if data_dir is None:
            return DATASETS[name].hub_id, None
        folder = data_dir / name
        if not folder.is_dir():
            raise DataError(f"no folder {name!r} in the data folder {data_dir}: it must hold 'mnist' and 'cifar10'")
        return str(folder), None
    if Path(name).is_dir():
        return str(Path(name).resolve()), None
    if Path(name).is_absolute():
        raise DataError(
            f"no folder {name!r} here: where a run or a card names it, change `dataset` in its args.json or its "
            "config.json"
        )
    if name.startswith("."):
        raise DataError(f"no folder {name!r} here")
    if name.count("/") == 1:
        source, _, configuration = name.partition(":")
        return source, configuration or None
    raise DataError(
        f"unknown dataset {name!r}: valid are 'mnist', 'cifar10', a folder of pictures, or a Hub id 'owner/name' or "
        "'owner/name:configuration'"
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _columns(name: str, features: datasets.Features) -> tuple[str, str]:
    def first(kind: type) -> str | None:
        return next((column for column, feature in features.items() if isinstance(feature, kind)), None)

    image, label = first(datasets.Image), first(datasets.ClassLabel)
    if label is None:
        label = next((column for column in LABEL_COLUMNS if isinstance(features.get(column), datasets.Value)), None)
    if image is None or label is None:
        found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise DataError(
            f"dataset {name!r} needs an Image column, and a ClassLabel column or one called "
            f"{', '.join(LABEL_COLUMNS)} (a folder of pictures: at least two sub-folders, one for each class); it has "
            f"{found}"
        )
    return image, label


def _classes(train: datasets.Dataset, label_column: str) -> list[str] | list[int]:
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    return sorted(value for value in train.unique(label_column) if value is not None)


def _secret(split: datasets.Dataset, label_column: str) -> bool:
    return set(split.unique(label_column)) <= {-1, None}


def _decode(
    table: datasets.Dataset,
    *,
    image_column: str,
    label_column: str,
    classes: list[str] | list[int],
    name: str,
    size: int | None,
) -> Split:
    """Decode a split once; later runs read the arrays from beside the library's cache."""
    what = f"{DECODING} {table._fingerprint} {image_column} {label_column} {size}"
    if not isinstance(table.features[label_column], datasets.ClassLabel):
        what += f" {classes}"  # they are those of another split
    key = hashlib.sha256(what.encode()).hexdigest()[:16]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "decoded" / f"{key}.npz"
    if cache.is_file():
        try:
            with cache.open("rb") as file, np.load(file) as arrays:
                return Split(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
        except Exception:  # damaged: made anew below
            cache.unlink(missing_ok=True)

    rows = table.cast_column(image_column, datasets.Image(decode=False)).with_format("arrow")[:]
    if rows[label_column].null_count:
        raise DataError(f"dataset {name!r} has images without a label")
    if rows[image_column].null_count:
        raise DataError(f"dataset {name!r} has labels without an image")
    if isinstance(table.features[label_column], datasets.ClassLabel):
        labels = rows[label_column].to_numpy().astype(np.int64)
    else:
        index = {value: i for i, value in enumerate(classes)}
        labels = np.array([index.get(value, -1) for value in rows[label_column].to_pylist()], np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"dataset {name!r} has labels from {labels.min()} to {labels.max()}, but {len(classes)} classes (-1: none "
            "of the training images')"
        )
    images: np.ndarray | None = None
    for i, cell in enumerate(cell for chunk in rows[image_column].chunks for cell in chunk.to_pylist()):
        try:
            data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
            image = PIL.Image.open(io.BytesIO(data))
            pixels = np.asarray(image if size is None else _fit(image, size))
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            reason = (
                "no picture in a format that Pillow knows" if isinstance(error, PIL.UnidentifiedImageError) else error
            )
            raise DataError(f"dataset {name!r}: image {i} ({cell['path']}) cannot be read: {reason}") from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if images is None:  # the first one says how large they all are
            images = np.empty((len(labels), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"dataset {name!r}: image {i} ({cell['path']}) is {pixels.shape}, not {images.shape[1:]}")
        images[i] = pixels
    if images is None:
        raise DataError(f"dataset {name!r} has an empty split")
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    cache.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cache) as aside:
        np.savez(aside, images=images, labels=labels)
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _fit(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """The largest centred square of a picture, upright, in colour, over white, at `size` pixels a side.

    Raises:
        ValueError: its pixels are of no known range.
    """
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    if upright.mode.startswith("I"):
        grey = np.asarray(upright)
        if not 0 <= grey.min() <= grey.max() <= 65535:
            raise ValueError(f"its pixels go from {grey.min()} to {grey.max()}: 16-bit grey goes from 0 to 65535")
        # 16-bit grey keeps its high byte, as in the server and as Pillow reads 16-bit colour; its `convert` clips.
        # Wider numbers may hold 8-bit grey.
        shift = 0 if upright.mode == "I" and grey.max() <= 255 else 8
        upright = PIL.Image.fromarray((grey >> shift).astype(np.uint8))
    if upright.has_transparency_data:  # what hides beneath would come to light
        white = PIL.Image.new("RGBA", upright.size, "white")
        upright = PIL.Image.alpha_composite(white, upright.convert("RGBA"))
    return PIL.ImageOps.fit(upright.convert("RGB"), (size, size), PIL.Image.Resampling.BILINEAR)
