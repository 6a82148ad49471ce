"""Read a dataset of tables with the `datasets` library: from the Hub, or from a folder in the Hub's layout."""

import atexit
import errno
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.compute

from train.data.encoded import Encoded, Source
from train.data.reference import SPLITS, DataError, DataOptions, recorded

# Names of columns that are taken where several would do, the first of them first.
IMAGE_COLUMNS = ("image", "img", "picture", "photo")
# Of these, labels may be plain numbers or words.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")
logger = logging.getLogger(__name__)
# How long the Hub may take for its first sign of life.
HUB_SECONDS = 10
LABEL_TYPES = ("string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def load(name: str, source: str, configuration: str | None, options: DataOptions) -> Source:
    """Read the splits of a dataset; images stay encoded.

    Args:
        name: the dataset's, for messages.
        source: a folder or a Hub id.
        configuration: the Hub's dataset's; None for its default.
        options: the columns and the split to train on.

    Raises:
        DataError: the dataset cannot be read, or has no column of images or of labels.
    """
    found = _read(name, source, configuration)
    train = options.split or "train"
    if train not in found:
        hint = "" if options.split else " (--split NAME trains on another)"
        raise DataError(f"dataset {name!r} has no split {train!r}, only {', '.join(map(repr, found))}{hint}")
    splits = {"train": found[train]}
    for split, table in found.items():
        if split != train:
            splits.setdefault(SPLITS.get(split.lower(), split), table)
    image, label, notes = _columns(name, splits["train"].features, options)
    classes = _classes(splits["train"], label)
    encoded = {}
    for split in ("train", "validation", "test"):
        if split not in splits:
            continue
        if split != "train" and _secret(splits[split], label):
            notes.append(f"split {split!r} is left out, as its labels are withheld")
            continue
        encoded[split] = _encoded(name, split, splits[split], image, label, classes)
    return Source(list(map(str, classes)), encoded, tuple(notes))


def _read(name: str, source: str, configuration: str | None) -> datasets.DatasetDict:
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # a DataError says what is wrong
    if Path(source).is_dir():
        datasets.disable_progress_bars()  # they are for downloads
    else:
        datasets.enable_progress_bars()
        _stay_offline_without_hub()
    try:
        elsewhere = _temporary_cache(Path(datasets.config.HF_DATASETS_CACHE))
        return datasets.load_dataset(source, configuration, **({"cache_dir": elsewhere} if elsewhere else {}))
    except Exception as error:  # the library raises a dozen types, among them pyarrow's and huggingface_hub's
        advice = (
            "; --data-dir names a folder that holds it" if recorded(name).paper and not Path(source).is_dir() else ""
        )
        raise DataError(f"cannot load dataset {name!r} from {source}: {_root_cause(error)}{advice}") from error


@cache
def _stay_offline_without_hub() -> None:
    """Read from the cache alone where the Hub cannot be reached: the libraries would retry for half a minute."""
    if huggingface_hub.constants.is_offline_mode():
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # of a type that depends on the library's version
        # What HF_HUB_OFFLINE=1 in the environment sets at the import.
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


@cache
def _temporary_cache(folder: Path) -> str | None:
    """Make a folder, until the process ends, for the library's files where its cache cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        if error.errno == errno.ENOSPC:  # the temporary folder is no better
            raise
        logger.warning("the cache of datasets cannot be written to, so each run prepares them again: %s", error)
    temporary = tempfile.mkdtemp(prefix="datasets-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # it does not say where
        return f"no space left on the device of {datasets.config.HF_DATASETS_CACHE} (HF_HOME names another place)"
    if isinstance(error, ConnectionError) and huggingface_hub.constants.is_offline_mode():
        return f"no connection to {huggingface_hub.constants.ENDPOINT}, and it is not in the cache"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _columns(name: str, features: datasets.Features, options: DataOptions) -> tuple[str, str, list[str]]:
    """Find the column of images and the column of labels, and say which was taken where there were several."""
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [
        column
        for column, feature in features.items()
        if isinstance(feature, datasets.Value) and feature.dtype in LABEL_TYPES
    ]
    if options.label_column:
        labels += plain
    elif not labels:
        labels = [column for column in LABEL_COLUMNS if column in plain][:1]
    found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
    if not images or not labels:
        raise DataError(
            f"dataset {name!r} needs an Image column, and a ClassLabel column or one called "
            f"{', '.join(LABEL_COLUMNS)} (--label-column names another; a folder of images: at least two sub-folders, "
            f"one for each class); it has {found}"
        )
    image, image_note = _one("image", images, IMAGE_COLUMNS, options.image_column, name)
    label, label_note = _one("label", labels, LABEL_COLUMNS, options.label_column, name)
    return image, label, [note for note in (image_note, label_note) if note]


def _one(
    kind: str, candidates: list[str], preferred: tuple[str, ...], chosen: str | None, name: str
) -> tuple[str, str | None]:
    """Choose one of several columns, by the flag or by its name."""
    listed = ", ".join(map(repr, candidates))
    if chosen:
        if chosen not in candidates:
            raise DataError(f"--{kind}-column {chosen!r}: dataset {name!r} has no such {kind} column, only {listed}")
        return chosen, None
    if len(candidates) == 1:
        return candidates[0], None
    for column in preferred:
        if column in candidates:
            return column, f"of the {kind} columns {listed}, {column!r} is read (--{kind}-column names another)"
    raise DataError(f"dataset {name!r} has several {kind} columns, {listed}: choose one by --{kind}-column")


def _classes(train: datasets.Dataset, label_column: str) -> list[str] | list[int]:
    """List the classes in the order of their label numbers."""
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    return sorted(value for value in train.unique(label_column) if value is not None)


def _secret(split: datasets.Dataset, label_column: str) -> bool:
    """Tell whether a split's labels are withheld, as those of a competition's test split are."""
    return set(split.unique(label_column)) <= {-1, None}


def _encoded(
    name: str, split: str, table: datasets.Dataset, image: str, label: str, classes: list[str] | list[int]
) -> Encoded:
    columns = table.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    rows = columns.with_format("arrow")[:]
    cells = rows[image]
    if cells.null_count:
        raise DataError(f"dataset {name!r} has labels without an image")
    paths = pa.compute.struct_field(cells, "path").to_pylist()
    return Encoded(
        # Read afresh, the labels are no part of it: the library's fingerprint does not change with their names.
        identity=f"{table._fingerprint} {image}",
        files=[f"{split}[{i}]" + (f" {path}" if path else "") for i, path in enumerate(paths)],
        labels=_labels(rows[label], table.features[label], classes, name),
        read=lambda i: _bytes(cells[i].as_py()),
    )


def _bytes(cell: dict[str, Any]) -> bytes:
    data: bytes | None = cell["bytes"]
    return Path(cell["path"]).read_bytes() if data is None else data


def _labels(column: pa.ChunkedArray, feature: Any, classes: list[str] | list[int], name: str) -> np.ndarray:
    if column.null_count:
        raise DataError(f"dataset {name!r} has images without a label")
    if isinstance(feature, datasets.ClassLabel):
        labels = np.asarray(column.to_numpy(), np.int64)
    else:
        index = {value: i for i, value in enumerate(classes)}
        labels = np.array([index.get(value, -1) for value in column.to_pylist()], np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"dataset {name!r} has labels from {labels.min()} to {labels.max()}, but {len(classes)} classes (-1: none "
            "of the training images')"
        )
    return labels
