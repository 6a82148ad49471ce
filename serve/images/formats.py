"""Pictures from strangers: from bytes to a picture of the model's own size, or a BadImage that says why not."""

import io
import math
import re
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from serve.engine.models import Images
from serve.errors import BadImage
from serve.settings import Settings

Measure = Callable[[tuple[int, int]], int]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# Most pixels a side: PNG's decoder keeps two rows beside the picture.
MAX_SIDE = 2**18
TILE_PIXELS = 1_000_000
# The most bytes that may precede the pixels: texts, colour profiles, previews. Pillow's time for some of them grows
# with the square of their length. GIFs have little there; WebP is read whole by a library of its own.
MAX_HEAD = {b"GIF8": 2**18, b"RIFF": math.inf}
MAX_HEAD_ELSE = 2**22
# A JPEG file may go over its pixels again and again, twelve bytes each time. Progressive ones do so about ten times.
MAX_SCANS = 100
SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
ORIENTATION = 0x0112
# Where a file may state its orientation: EXIF, also as older programs write it into PNG, and XMP.
NOTES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's warnings about broken files are for people at a terminal; here strangers would fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The limit is the caller's, and checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Bytes that a PNG's compressed texts may unpack to; Pillow itself allows eight times as many.
PngImagePlugin.MAX_TEXT_MEMORY = 2**23


class _Stream(io.BytesIO):
    """A picture's bytes, of which no more than `left` may be read."""

    def __init__(self, data: bytes, left: float) -> None:
        super().__init__(data)
        self.left = left

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.left -= len(part)
        if self.left < 0:
            raise ValueError("too much comes before its pixels")
        return part


def decode(
    data: bytes,
    *,
    max_pixels: int = Settings.max_pixels,
    enough: int | None = None,
    measure: Measure = min,
    alpha: bool = False,
) -> Image.Image:
    """Decode the picture in `data`: first frame, upright, mode L or RGB, transparency over white.

    With `alpha`, a picture with transparency becomes RGBA. A picture whose shorter side (with `measure` max, the longer
    one) is at least twice `enough` pixels is shrunk on the way, which saves most of the time and the memory of a large
    one. Raises BadImage: 400 where the bytes are broken, 413 where the picture is too large, 415 where it is in none of
    FORMATS.
    """
    image = open_header(data, max_pixels=max_pixels)
    return finish(image, enough=enough, measure=measure, alpha=alpha)


def open_header(data: bytes, *, max_pixels: int = Settings.max_pixels) -> Image.Image:
    """Open the picture with its pixels still undecoded; raises as `decode` does."""
    if not data:
        raise BadImage(400, "the picture is empty: 0 bytes")
    most_head = MAX_HEAD.get(data[:4], MAX_HEAD_ELSE)
    # For small pictures nothing need be counted.
    stream = io.BytesIO(data) if len(data) <= most_head else _Stream(data, most_head)
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(415, f"not a picture in a format this server reads ({', '.join(FORMATS)})") from None
    except Exception as error:
        raise _broken(error) from error
    width, height = image.size
    # WebP's decoder keeps four copies of the picture.
    most = max_pixels // 2 if image.format == "WEBP" else max_pixels
    if width * height > most:
        raise BadImage(413, f"the picture is too large: {width}x{height}, at most {most:,} pixels")
    if max(image.size) > MAX_SIDE:
        raise BadImage(413, f"the picture is too large: {width}x{height}, at most {MAX_SIDE:,} pixels a side")
    if image.format in ("JPEG", "MPO") and len(SCAN.findall(data)) > MAX_SCANS:
        raise BadImage(400, f"the picture is made of more than {MAX_SCANS} scans")
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.tile[0][0] == "bmp_rle":
        # Four bytes may skip 255 rows, of which Pillow makes gigabytes.
        raise BadImage(415, "BMP with run-length coding is not read")
    if isinstance(stream, _Stream):
        stream.left = math.inf
    return image


def finish(
    image: Image.Image, *, enough: int | None = None, measure: Measure = min, alpha: bool = False
) -> Image.Image:
    """Decode what `open_header` gave; see `decode`."""
    try:
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
        turn = _turn(image)
        factor = 1 if enough is None else measure(image.size) // enough
        image = _plain(image, alpha) if factor < 2 else _shrunk(image, factor, alpha)
        return image if turn is None else image.transpose(turn)
    except Exception as error:
        raise _broken(error) from error


def _broken(error: Exception) -> BadImage:
    # Pillow's readers raise nearly anything on broken bytes (SyntaxError, struct.error, KeyError, zlib.error ...).
    return BadImage(400, f"the picture is broken: {str(error) or type(error).__name__}"[:200])


def _shrunk(image: Image.Image, factor: int, alpha: bool) -> Image.Image:
    """Shrink the plain picture to 1/`factor` of its size, tile by tile.

    A second whole copy would be the larger part of all memory that a picture takes.
    """
    width, height = image.size
    columns = min(width, factor * max(1, TILE_PIXELS // factor**2))
    rows = factor * max(1, TILE_PIXELS // (columns * factor))
    small: Image.Image | None = None
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            box = (left, top, min(left + columns, width), min(top + rows, height))
            tile = _plain(image.crop(box), alpha).reduce(factor)
            small = small or Image.new(tile.mode, (-(-width // factor), -(-height // factor)))
            small.paste(tile, (left // factor, top // factor))
    assert small is not None
    return small


def _plain(image: Image.Image, alpha: bool) -> Image.Image:
    """Convert to mode L or RGB; to RGBA where there is transparency that is to be kept."""
    if image.mode.startswith("I"):
        # 16-bit grey keeps its high byte; Pillow's own conversion clips.
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not (image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info):
        return image if image.mode == mode else image.convert(mode)
    image = image.convert("RGBA")
    return image if alpha else Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode)


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Pillow reads all of these, which takes longer than to see that none is there.
    if not any(key in image.info for key in NOTES):
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:
        # A broken note about the picture does not spoil the picture.
        return None


def fit(image: Image.Image, shape: tuple[int, int, int]) -> Images:
    """Fit a picture to `shape`, uint8 [H, W, C]: its centre square, resized with antialiasing, grey where C is 1.

    Pictures of other sizes are read so for training, too. One that has this size already stays as it is, to the bit.
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
