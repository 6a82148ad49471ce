"""Images from strangers: decode bytes to an image of the model's size, or raise a BadImage that says why not."""

import io
import math
import re
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from serve.engine.models import Images
from serve.errors import BadImage
from serve.images.avif import coded_pixels
from serve.settings import Settings

Measure = Callable[[tuple[int, int]], int]


class FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF whose first frame alone is read.

    While Pillow opens a file it makes a canvas for the second frame: gigabytes for a few bytes that ask for them.
    """

    @property
    def disposal_method(self) -> int:
        """0: the second frame needs no canvas."""
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        pass


# The formats that are read, by the first bytes of their files.
READERS: dict[str, tuple[re.Pattern[bytes], Callable[[io.BytesIO, str], ImageFile.ImageFile]]] = {
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.jpeg_factory),
    "WEBP": (re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), WebPImagePlugin.WebPImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), FirstFrame),
    "BMP": (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
}
if AvifImagePlugin.SUPPORTED:  # not by every build of Pillow
    # Of `mif1`, which other formats have too, the list of compatible brands decides.
    READERS["AVIF"] = (
        re.compile(rb".{4}ftyp(?:avif|avis|(?:mif1|miaf).{4}(?:.{4}){0,15}avif)", re.DOTALL),
        AvifImagePlugin.AvifImageFile,
    )
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # other requests need the cores too
with suppress(ImportError):  # an optional dependency
    from pillow_heif import options
    from pillow_heif.as_plugin import HeifImageFile

    # Its decoder refuses coded images that are larger than the file states.
    READERS["HEIC"] = (re.compile(rb".{4}ftyp(?:hei[cxms]|mif1.{4}(?:.{4}){0,15}hei[cxms])", re.DOTALL), HeifImageFile)
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
# The most pixels a side: PNG's decoder keeps two rows beside the image.
MAX_SIDE = 2**18
TILE_PIXELS = 1_000_000
# The most bytes that may precede the pixels: texts, colour profiles, previews. Pillow's time for some of them grows
# with the square of their length. GIFs have little there; these others are read whole by libraries of their own.
MAX_HEAD = {"GIF": 2**18, "WEBP": math.inf, "AVIF": math.inf, "HEIC": math.inf}
MAX_HEAD_ELSE = 2**22
# A JPEG file may code its pixels in any number of scans of twelve bytes each. Progressive files have about ten.
MAX_SCANS = 100
SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
ORIENTATION = 0x0112
# What Pillow multiplies grey pixels of few bits with.
FACTORS = {"L;2": 85, "L;4": 17}
# Where a file may state its orientation: EXIF (older programs write it into PNG as text) and XMP.
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
# Bytes that a PNG's compressed texts may unpack to; Pillow itself allows eight times as many.
PngImagePlugin.MAX_TEXT_MEMORY = 2**23


class _Stream(io.BytesIO):
    """An image's bytes, of which no more than `left` may be read."""

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
    """Decode the image in `data`: first frame, upright, mode L or RGB, transparency over white.

    Args:
        data: the bytes of a file in one of the formats in READERS.
        max_pixels: the most pixels, width x height, that the image may have.
        enough: an image whose side is at least twice this many pixels is shrunk while it is decoded, which saves most
            of the time and the memory of a large image. None: never.
        measure: the side that `enough` is compared with: min for the shorter, max for the longer one.
        alpha: whether an image with transparency becomes mode RGBA instead.

    Raises:
        BadImage: 400 if the bytes are broken, 413 if the image is too large, 415 if its format is not read.
    """
    image = open_header(data, max_pixels=max_pixels)
    return finish(image, enough=enough, measure=measure, alpha=alpha)


def open_header(data: bytes, *, max_pixels: int = Settings.max_pixels) -> Image.Image:
    """Open the image without decoding its pixels; raises as `decode` does."""
    if not data:
        raise BadImage(400, "the image is empty: 0 bytes")
    name = next((name for name, (signature, _) in READERS.items() if signature.match(data)), "")
    if not name:
        raise _unknown()
    most_head = MAX_HEAD.get(name, MAX_HEAD_ELSE)
    # Of small files nothing has to be counted.
    stream = io.BytesIO(data) if len(data) <= most_head else _Stream(data, most_head)
    image = _open(name, stream)
    _check_size(image, max_pixels)
    if name == "AVIF":
        _check_coded_size(image, data, max_pixels)
    if image.format in ("JPEG", "MPO") and len(SCAN.findall(data)) > MAX_SCANS:
        raise BadImage(400, f"the image is made of more than {MAX_SCANS} scans")
    if image.tile and image.tile[0][0] == "bmp_rle":
        # Four bytes may skip 255 rows, of which Pillow makes gigabytes.
        raise BadImage(415, "BMP with run-length coding is not read")
    if isinstance(stream, _Stream):
        stream.left = math.inf
    return image


def _open(name: str, stream: io.BytesIO) -> ImageFile.ImageFile:
    """Open the image as `Image.open` does, except for its limit on pixels, which is one for the whole process."""
    try:
        return READERS[name][1](stream, "")
    except (SyntaxError, IndexError, TypeError, struct.error):
        # Pillow's readers raise these where the file is in another format after all.
        raise _unknown() from None
    except Image.DecompressionBombError as error:  # from GIF's reader, of a frame larger than the screen
        raise BadImage(413, f"the image is too large: {error}") from error
    except Exception as error:
        raise _broken(error) from error


def _unknown() -> BadImage:
    return BadImage(415, f"not an image in a format this server reads ({', '.join(READERS)})")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    # Their decoders keep several copies of the image.
    most = max_pixels // 2 if image.format in ("WEBP", "AVIF", "HEIF") else max_pixels
    if width * height > most:
        raise BadImage(413, f"the image is too large: {width}x{height}, at most {most:,} pixels")
    if max(image.size) > MAX_SIDE:
        raise BadImage(413, f"the image is too large: {width}x{height}, at most {MAX_SIDE:,} pixels a side")


def _check_coded_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse an AVIF that is made of more coded pixels than its own colours, transparency and grid can explain."""
    try:
        coded = coded_pixels(data)
    except (ValueError, KeyError) as error:
        raise _broken(error) from error
    if coded > min(16 * max(image.width * image.height, 64 * 64), 2 * max_pixels):
        raise BadImage(413, f"the image is too large: {image.width}x{image.height}, but of {coded:,} coded pixels")


def finish(
    image: Image.Image, *, enough: int | None = None, measure: Measure = min, alpha: bool = False
) -> Image.Image:
    """Decode the pixels of an image from `open_header`; see `decode`."""
    try:
        _scale_transparency(image)
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
        turn = _turn(image)
        factor = 1 if enough is None else measure(image.size) // enough
        image = _plain(image, alpha) if factor < 2 else _shrunk(image, factor, alpha)
        return image if turn is None else image.transpose(turn)
    except Exception as error:
        raise _broken(error) from error


def _scale_transparency(image: Image.Image) -> None:
    """Scale a PNG's transparent colour to 8 bits, as Pillow does with its pixels."""
    value = image.info.get("transparency")
    kind = image.tile[0][3] if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else None
    if value is not None and kind in FACTORS:
        image.info["transparency"] = value * FACTORS[kind]
    elif value is not None and kind == "RGB;16B":
        # The low bytes are gone: colours that differ in them alone become transparent too.
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _broken(error: Exception) -> BadImage:
    # Pillow's readers raise nearly anything on broken bytes (SyntaxError, struct.error, KeyError, zlib.error ...).
    return BadImage(400, f"the image is broken: {str(error) or type(error).__name__}"[:200])


def _shrunk(image: Image.Image, factor: int, alpha: bool) -> Image.Image:
    """Shrink the image to 1/`factor` of its size, tile by tile.

    Converting the whole image first would take more memory than all other steps.
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
    """Convert to mode L or RGB; with `alpha`, to RGBA if there is transparency."""
    if image.mode.startswith("I"):
        # 16-bit grey keeps its high byte; Pillow's own conversion clips.
        deep, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((np.clip(deep, 0, 65535) >> 8).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not (image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info):
        return image if image.mode == mode else image.convert(mode)
    image = image.convert("RGBA")
    return image if alpha else Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode)


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Looking for the keys first is faster than reading EXIF data that most images lack.
    if not any(key in image.info for key in NOTES):
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:
        # The image itself can be read although its metadata are broken.
        return None


def fit(image: Image.Image, shape: tuple[int, int, int]) -> Images:
    """Fit an image to `shape` (H, W, C): its centre square, resized with antialiasing, grey if C is 1.

    Training reads images of other sizes in the same way. An image of this size stays as it is, to the bit.

    Returns:
        uint8 [H, W, C].
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
