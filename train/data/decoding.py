"""From a split of the `datasets` library to two arrays: images, uint8, and labels."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa

from train.data import cache
from train.data.reference import DataError

# Increase this whenever images are decoded in another way: cached arrays of earlier versions are not read any more.
VERSION = 3


def decode(
    table: datasets.Dataset,
    *,
    name: str,
    image_column: str,
    label_column: str,
    classes: list[str] | list[int],
    size: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a split, or read the arrays of an earlier call from the cache.

    Args:
        table: the split.
        name: the dataset's, for messages.
        image_column: a column of the library's type `Image`.
        label_column: a column of its type `ClassLabel`, or of the values in `classes`.
        classes: the classes in the order of their label numbers.
        size: side in pixels to which images are cropped and resized; None leaves them as they are.

    Returns:
        Images uint8 [n, channels, height, width] and labels int64 [n].

    Raises:
        DataError: an image or a label is missing or cannot be read, or images differ in size.
    """
    # The classes are part of the identity: the library's fingerprint of a split does not change with their names.
    file = cache.path(VERSION, table._fingerprint, image_column, label_column, classes, size)
    if found := cache.read(file):
        return found
    rows = table.cast_column(image_column, datasets.Image(decode=False)).with_format("arrow")[:]
    labels = _labels(rows[label_column], table.features[label_column], classes, name)
    if rows[image_column].null_count:
        raise DataError(f"dataset {name!r} has labels without an image")
    images = _images(rows[image_column], size, name)
    cache.write(file, images, labels)
    return images, labels


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


def _images(column: pa.ChunkedArray, size: int | None, name: str) -> np.ndarray:
    """Decode the cells of an image column, one at a time: uint8 [n, channels, height, width]."""
    images: np.ndarray | None = None
    for i, cell in enumerate(cell for chunk in column.chunks for cell in chunk.to_pylist()):
        try:
            pixels = _pixels(cell, size)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            unknown = isinstance(error, PIL.UnidentifiedImageError)
            reason = "not in an image format that Pillow reads" if unknown else error
            raise DataError(f"dataset {name!r}: image {i} ({cell['path']}) cannot be read: {reason}") from error
        if images is None:  # the first image sets the size of all
            images = np.empty((len(column), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"dataset {name!r}: image {i} ({cell['path']}) is {pixels.shape}, not {images.shape[1:]}")
        images[i] = pixels
    if images is None:
        raise DataError(f"dataset {name!r} has an empty split")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _pixels(cell: dict[str, Any], size: int | None) -> np.ndarray:
    """Decode one cell, an encoded image or the path of one: uint8 [height, width, channels]."""
    data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    image = PIL.Image.open(io.BytesIO(data))
    pixels = np.asarray(image if size is None else fit(image, size))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Crop an image to its largest centred square and resize it, upright, in RGB, over white.

    Args:
        image: in any mode of Pillow but floating point.
        size: of the result's sides, in pixels.

    Raises:
        ValueError: the range of its pixel values is unknown.
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
    if upright.has_transparency_data:  # `convert` would show the colours of transparent pixels
        white = PIL.Image.new("RGBA", upright.size, "white")
        upright = PIL.Image.alpha_composite(white, upright.convert("RGBA"))
    return PIL.ImageOps.fit(upright.convert("RGB"), (size, size), PIL.Image.Resampling.BILINEAR)
