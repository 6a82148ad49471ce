"""From the encoded images of a split to one array, uint8."""

import hashlib
import io
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageOps

from train.data import cache
from train.data.encoded import Encoded
from train.data.reference import DataError

with suppress(ImportError):  # photos of iPhones, where it is installed
    import pillow_heif

    pillow_heif.register_heif_opener()

# Increase this whenever images are decoded in another way: cached arrays of earlier versions are not read any more.
VERSION = 4


@dataclass(frozen=True)
class Decoded:
    """The images of a split that could be read.

    Attributes:
        images: uint8 [n, channels, height, width].
        digests: uint8 [n, 32], the SHA-256 of each image's encoded bytes.
        kept: int64 [n], their positions in the split.
        unreadable: the others, each with the reason.
    """

    images: np.ndarray
    digests: np.ndarray
    kept: np.ndarray
    unreadable: list[str]


def decode(encoded: Encoded, *, name: str, size: int | None, skip_unreadable: bool = False) -> Decoded:
    """Decode a split, or read the arrays of an earlier call from the cache.

    Args:
        encoded: the split. Its labels are not cached: they are numbers of names, and the names may change.
        name: the dataset's, for messages.
        size: side in pixels to which images are cropped and resized; None leaves them as they are.
        skip_unreadable: leave out images that cannot be read.

    Raises:
        DataError: an image cannot be read and is not skipped, none can be read, or images differ in size.
    """
    file = cache.path(VERSION, encoded.identity, size, skip_unreadable)
    if found := cache.read(file):
        return Decoded(found["images"], found["digests"], found["kept"], found["unreadable"].tolist())
    decoded = _decode(encoded, name, size, skip_unreadable)
    cache.write(
        file,
        images=decoded.images,
        digests=decoded.digests,
        kept=decoded.kept,
        unreadable=np.array(decoded.unreadable, np.str_),
    )
    return decoded


def _decode(encoded: Encoded, name: str, size: int | None, skip_unreadable: bool) -> Decoded:
    """Decode the images one at a time. These are the user's own, so a very large one is no attack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        return _decode_all(encoded, name, size, skip_unreadable)


def _decode_all(encoded: Encoded, name: str, size: int | None, skip_unreadable: bool) -> Decoded:
    images: np.ndarray | None = None
    digests: list[np.ndarray] = []
    kept: list[int] = []
    unreadable: list[str] = []
    for i, file in enumerate(encoded.files):
        try:
            data = encoded.read(i)
            pixels = _pixels(data, size)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            reason = _reason(error)
            if skip_unreadable:
                unreadable.append(f"{file} ({reason})")
                continue
            raise DataError(
                f"dataset {name!r}: image {i} ({file}) cannot be read: {reason} (--skip-unreadable leaves such images "
                "out)"
            ) from error
        if images is None:  # the first image sets the size of all
            images = np.empty((len(encoded), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"dataset {name!r}: image {i} ({file}) is {pixels.shape}, not {images.shape[1:]}")
        images[len(kept)] = pixels
        digests.append(np.frombuffer(hashlib.sha256(data).digest(), np.uint8))
        kept.append(i)
    if images is None:
        raise DataError(f"dataset {name!r} has an empty split" + (": no image can be read" if unreadable else ""))
    return Decoded(
        np.ascontiguousarray(images[: len(kept)].transpose(0, 3, 1, 2)), np.stack(digests), np.array(kept), unreadable
    )


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not in an image format that Pillow reads"
    if isinstance(error, OSError) and error.strerror:  # a file that is missing or may not be read
        return error.strerror
    return str(error)


def _pixels(data: bytes, size: int | None) -> np.ndarray:
    """Decode one image: uint8 [height, width, channels]."""
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
