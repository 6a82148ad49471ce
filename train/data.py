"""Datasets as uint8 arrays: from a folder in the Hub's layout, from the Hub itself, or from a folder of pictures.

Everything goes through `datasets.load_dataset`, so one code path serves `ylecun/mnist`, its local copy, `train/samples`
and an ImageFolder of one's own. The images are decoded once, kept beside the library's own cache, and are small enough
to live on the training device whole.
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

from train.files import replacing

HUB_IDS = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
# The paper's logs (Figures 11 to 14) show 10,000 of MNIST's 60,000 and 5,000 of CIFAR-10's 50,000 training images.
VALIDATION_FRACTION = {"mnist": 1 / 6, "cifar10": 1 / 10}
VALIDATION_SEED = 0


class DataError(ValueError):
    """A dataset that cannot be had or read; its message is one line for the user."""


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


@dataclass(frozen=True)
class Dataset:
    """The three splits of a dataset and the names of its classes, in the order of the labels."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


def load(name: str, data_dir: Path | None = None, image_size: int | None = None) -> Dataset:
    """Load a dataset and cut its validation split.

    Args:
        name: "mnist", "cifar10", a folder of pictures in ImageFolder layout, or the Hub id of a dataset with an image
            and a label column.
        data_dir: where `mnist/` and `cifar10/` lie, in the Hub's layout; default `ZOO_DATA_DIR`, without it the Hub.
        image_size: side in pixels to which pictures of differing sizes are cropped and resized; MNIST and CIFAR-10 keep
            their own.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    source = _source(name, data_dir)
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said once, by us
    if Path(source).is_dir():
        datasets.disable_progress_bars()  # they are for downloads
    else:
        datasets.enable_progress_bars()
    try:
        splits = datasets.load_dataset(source)
    except Exception as error:  # the library raises a dozen types, among them pyarrow's and huggingface_hub's
        raise DataError(f"cannot load dataset {name!r} from {source}: {_root_cause(error)}") from error
    if "train" not in splits:
        raise DataError(f"dataset {name!r} has no split 'train', only {', '.join(map(repr, splits))}")

    image_column, label_column = _columns(name, splits["train"].features)
    size = None if name in HUB_IDS else image_size
    decode = partial(_decode, image_column=image_column, label_column=label_column, name=name, size=size)
    train = decode(splits["train"])
    held_out = np.random.default_rng(VALIDATION_SEED).permutation(len(train))
    n_validation = round(len(train) * VALIDATION_FRACTION.get(name, 1 / 10))
    n_test = 0
    test_name = next((split for split in ("test", "validation") if split in splits), None)
    if test_name is not None:
        test = decode(splits[test_name])
    else:  # a folder with one split only
        n_test = n_validation
        test = train.take(held_out[:n_test])
    validation = train.take(np.sort(held_out[n_test : n_test + n_validation]))
    remaining = np.sort(held_out[n_test + n_validation :])
    if min(n_validation, len(test)) == 0:
        raise DataError(f"dataset {name!r} has only {len(train)} training images: too few to cut a validation split")
    class_names = tuple(splits["train"].features[label_column].names)
    return Dataset(name, class_names, train.take(remaining), validation, test)


def _source(name: str, data_dir: Path | None) -> str:
    if data_dir is None and os.environ.get("ZOO_DATA_DIR"):
        data_dir = Path(os.environ["ZOO_DATA_DIR"])
    if name in HUB_IDS:
        if data_dir is None:
            return HUB_IDS[name]
        folder = data_dir / name
        if not folder.is_dir():
            raise DataError(f"no folder {name!r} in the data folder {data_dir}: it must hold 'mnist' and 'cifar10'")
        return str(folder)
    if Path(name).is_dir():
        return name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name
    raise DataError(
        f"unknown dataset {name!r}: valid are 'mnist', 'cifar10', a folder of pictures, or a Hub id 'owner/name'"
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _columns(name: str, features: datasets.Features) -> tuple[str, str]:
    def first(kind: type) -> str | None:
        return next((column for column, feature in features.items() if isinstance(feature, kind)), None)

    image, label = first(datasets.Image), first(datasets.ClassLabel)
    if image is None or label is None:
        found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise DataError(f"dataset {name!r} needs an Image and a ClassLabel column; it has {found}")
    return image, label


def _decode(table: datasets.Dataset, *, image_column: str, label_column: str, name: str, size: int | None) -> Split:
    """Decode a split once; later runs read the arrays from beside the library's cache."""
    key = hashlib.sha256(f"{table._fingerprint} {image_column} {label_column} {size}".encode()).hexdigest()[:16]
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
    labels = rows[label_column].to_numpy().astype(np.int64)
    n_classes = len(table.features[label_column].names)
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise DataError(f"dataset {name!r} has labels from {labels.min()} to {labels.max()}, but {n_classes} classes")
    images: np.ndarray | None = None
    for i, cell in enumerate(cell for chunk in rows[image_column].chunks for cell in chunk.to_pylist()):
        try:
            data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
            image = PIL.Image.open(io.BytesIO(data))
            pixels = np.asarray(image if size is None else _fit(image, size))
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            raise DataError(f"dataset {name!r}: image {i} ({cell['path']}) cannot be read: {error}") from error
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
    """The largest centred square of a picture, upright, in colour, over white, at `size` pixels a side."""
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.has_transparency_data:  # what hides beneath would come to light
        white = PIL.Image.new("RGBA", upright.size, "white")
        upright = PIL.Image.alpha_composite(white, upright.convert("RGBA"))
    return PIL.ImageOps.fit(upright.convert("RGB"), (size, size), PIL.Image.Resampling.BILINEAR)
