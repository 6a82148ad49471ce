"""Images of none of the classes, for benchmarks/unknown.py: drawn here, from the samples, or shipped by packages.

`pip install scikit-image scikit-learn` for those of CIFAR-10. Each set is a function of a generator and a number of
images; it returns uint8 [n, 28, 28, 1] for digits and [n, 32, 32, 3] for CIFAR-10.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from train.data import loading
from train.onnx_export import build

Images = np.ndarray
Source = Callable[[np.random.Generator, int], Images]

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
# Of different kinds: without and with serifs, of one width, slanted, bold, and TeX's.
LETTER_FONTS = (
    "DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneral",
    "STIXGeneralBol", "cmr10", "cmss10", "cmtt10", "cmti10",
)  # fmt: skip
# Without those that may be taken for a digit: B D G I J L O Q S Z b g i j l o q s t y z.
LETTERS = "ACEFHKMNPRTUVWXYacdefhkmnprtuvwx"
SYMBOLS = "+=\N{MULTIPLICATION SIGN}÷?#%&@$€*<>^~!§¶←↑→↓↔♥★☺♪♠♣♦✓✗∞∑π∂√"
SYMBOL_FONT = "DejaVuSans"
WORDS = ("the", "image", "deep", "Net", "text", "read", "2026", "VGG", "stop", "open", "GmbH", "#42", "e-mail", "sale")
INK = 20  # the longer side of a digit of MNIST, in pixels
COARSE = 4  # drawings are made at four times their size


def _centred(drawing: Image.Image) -> Images:
    """Bring white on black into MNIST's form: 20 pixels on the longer side, the centre of mass in the middle."""
    ink = drawing.crop(drawing.getbbox())
    scale = INK / max(ink.size)
    small = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(small, float)
    y, x = ndimage.center_of_mass(pixels)
    top, left = (
        int(np.clip(round(14 - middle - 0.5), 0, 28 - side)) for middle, side in zip((y, x), pixels.shape, strict=True)
    )
    result = np.zeros((28, 28, 1), np.uint8)
    result[top : top + pixels.shape[0], left : left + pixels.shape[1], 0] = pixels.clip(0, 255)
    return result


def _slanted(drawing: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn and slant a drawing a little, as hands do."""
    shear = rng.uniform(-0.15, 0.15)
    side = drawing.size[0]
    slanted = drawing.transform(
        drawing.size, Image.Transform.AFFINE, (1, shear, -shear * side / 2, 0, 1, 0), Image.Resampling.BICUBIC
    )
    return slanted.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / f"{name}.ttf"), size)


def _written(text: str, font: str, rng: np.random.Generator) -> Images:
    drawing = Image.new("L", (160, 160))
    ImageDraw.Draw(drawing).text((80, 80), text, 255, _font(font, 80), anchor="mm")
    return _centred(_slanted(drawing, rng))


def letters(rng: np.random.Generator, count: int) -> Images:
    """Letters that resemble no digit, in eleven fonts."""
    return np.stack([_written(rng.choice(list(LETTERS)), rng.choice(LETTER_FONTS), rng) for _ in range(count)])


def symbols(rng: np.random.Generator, count: int) -> Images:
    """Signs and symbols of a font."""
    return np.stack([_written(rng.choice(list(SYMBOLS)), SYMBOL_FONT, rng) for _ in range(count)])


def _ring(points: int, radii: Sequence[float] = (1,), turn: float = 0) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, points + 1) + turn
    lengths = np.resize(radii, points + 1)
    lengths[-1] = lengths[0]
    return np.stack([lengths * np.sin(angles), -lengths * np.cos(angles)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 40)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], 1) / 17


def _wave() -> np.ndarray:
    x = np.linspace(-1, 1, 40)
    return np.stack([x, 0.4 * np.sin(3 * math.pi * x)], 1)


def _spiral() -> np.ndarray:
    t = np.linspace(0, 6 * math.pi, 80)
    return np.stack([t * np.sin(t), t * np.cos(t)], 1) / t[-1]


# Each a list of strokes, [points, 2], x to the right and y down, from -1 to 1.
SHAPES: dict[str, list[np.ndarray]] = {
    "heart": [_heart()],
    "smiley": [
        _ring(30),
        _ring(8, (0.1,)) + np.array([-0.35, -0.3]),
        _ring(8, (0.1,)) + np.array([0.35, -0.3]),
        np.stack([0.5 * np.cos(t := np.linspace(0.3, math.pi - 0.3, 12)), 0.55 * np.sin(t)], 1),
    ],
    "triangle": [_ring(3)],
    "square": [_ring(4, turn=math.pi / 4)],
    "star": [_ring(10, (1, 0.42))],
    "pentagram": [_ring(5)[[0, 2, 4, 1, 3, 0]]],
    "arrow": [np.array([[-1, 0], [1, 0]]), np.array([[0.5, -0.5], [1, 0], [0.5, 0.5]])],
    "cross": [np.array([[-0.8, -0.8], [0.8, 0.8]]), np.array([[-0.8, 0.8], [0.8, -0.8]])],
    "house": [np.array([[-0.8, 1], [-0.8, -0.1], [0, -1], [0.8, -0.1], [0.8, 1], [-0.8, 1]])],
    "wave": [_wave()],
    "spiral": [_spiral()],
    "stick figure": [
        _ring(16, (0.28,)) + np.array([0, -0.7]),
        np.array([[0, -0.4], [0, 0.3]]),
        np.array([[-0.5, -0.1], [0.5, -0.1]]),
        np.array([[-0.4, 1], [0, 0.3], [0.4, 1]]),
    ],
}


def shapes(rng: np.random.Generator, count: int) -> Images:
    """Figures drawn with a pen: heart, smiley, triangle, star, arrow, house and others."""
    found = []
    for _ in range(count):
        strokes = SHAPES[rng.choice(list(SHAPES))]
        drawing = Image.new("L", (160, 160))
        pen = ImageDraw.Draw(drawing)
        width = int(rng.integers(7, 13))
        stretch = rng.uniform(0.8, 1.2, 2)
        for stroke in strokes:
            points = 80 + 50 * stretch * (stroke + rng.normal(0, 0.02, stroke.shape))
            pen.line([tuple(point) for point in points.tolist()], 255, width, joint="curve")
        found.append(_centred(_slanted(drawing, rng)))
    return np.stack(found)


@cache
def samples(dataset: str) -> Images:
    """The test images that ship with the project, uint8 [1000, H, W, C]."""
    images = loading.load(dataset, build.SAMPLES).test.images
    pixels: Images = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def two_digits(rng: np.random.Generator, count: int) -> Images:
    """Two digits side by side, as if a user had drawn a number."""
    digits = samples("mnist")
    found = []
    for left, right in rng.integers(0, len(digits), (count, 2)):
        pair = [digits[index, :, np.flatnonzero(digits[index].any((0, 2))), 0].T for index in (left, right)]
        gap = np.zeros((28, int(rng.integers(1, 5))), np.uint8)
        found.append(_centred(Image.fromarray(np.concatenate([pair[0], gap, pair[1]], 1))))
    return np.stack(found)


def noise(rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> Images:
    """A third each: independent values, sparse white pixels, and smooth noise."""
    found = []
    for index in range(count):
        if index % 3 == 0:
            image = rng.uniform(0, 1, shape)
        elif index % 3 == 1:
            image = (rng.random(shape) < rng.uniform(0.02, 0.3)).astype(float)
        else:
            image = ndimage.gaussian_filter(rng.normal(0, 1, shape), (*[rng.uniform(1, 4)] * 2, 0))
            image = (image - image.min()) / np.ptp(image)
        found.append(image)
    return np.rint(np.stack(found) * 255).astype(np.uint8)


def patterns(rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> Images:
    """Gratings, chequers, rings and dots of random size, direction and colours."""
    height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    found = []
    for index in range(count):
        angle, period, phase = rng.uniform(0, math.pi), rng.uniform(3, 14), rng.uniform(0, 2 * math.pi)
        along = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period + phase
        across = (y * math.cos(angle) - x * math.sin(angle)) * 2 * math.pi / period + phase
        kind = index % 4
        if kind == 0:
            value = (np.sin(along) + 1) / 2
        elif kind == 1:
            value = (np.sin(along) * np.sin(across) > 0).astype(float)
        elif kind == 2:
            middle = rng.uniform(0, height, 2)
            value = (np.sin(np.hypot(y - middle[0], x - middle[1]) * 2 * math.pi / period) + 1) / 2
        else:
            value = (np.sin(along) * np.sin(across) > 0.5).astype(float)
        dark, light = (np.zeros(1), np.ones(1)) if channels == 1 else rng.random((2, channels))
        found.append(dark + value[:, :, None] * (light - dark))
    return np.rint(np.stack(found) * 255).astype(np.uint8)


def grey_cifar10(rng: np.random.Generator, count: int) -> Images:
    """Images of CIFAR-10 in grey, at 28x28 pixels."""
    chosen = samples("cifar10")[rng.integers(0, 1000, count)]
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize((28, 28), Image.Resampling.LANCZOS)) for image in chosen
    ]
    return np.stack(small)[:, :, :, None]


def _coloured(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Colour a mask, [H, W] from 0 to 255, in two colours of some contrast."""
    while True:
        ink, paper = rng.random((2, 3))
        if np.abs(ink - paper).max() > 0.35:
            break
    return np.rint(255 * (paper + mask[:, :, None] / 255 * (ink - paper))).astype(np.uint8)


def coloured_digits(rng: np.random.Generator, count: int) -> Images:
    """Digits of MNIST in two random colours."""
    chosen = np.pad(samples("mnist"), ((0, 0), (2, 2), (2, 2), (0, 0)))[rng.integers(0, 1000, count), :, :, 0]
    return np.stack([_coloured(rng, digit) for digit in chosen])


def white_digits(rng: np.random.Generator, count: int) -> Images:
    """Digits of MNIST as they are, white on black."""
    chosen = np.pad(samples("mnist"), ((0, 0), (2, 2), (2, 2), (0, 0)))[rng.integers(0, 1000, count)]
    return np.repeat(chosen, 3, 3)


def words(rng: np.random.Generator, count: int) -> Images:
    """Short words in two random colours, in eleven fonts."""
    found = []
    for _ in range(count):
        drawing = Image.new("L", (128, 128))
        pen = ImageDraw.Draw(drawing)
        font = _font(rng.choice(LETTER_FONTS), int(rng.integers(30, 60)))
        for line in range(int(rng.integers(1, 4))):
            pen.text((64, 30 + 34 * line), rng.choice(WORDS), 255, font, anchor="mm")
        found.append(_coloured(rng, np.asarray(drawing.resize((32, 32), Image.Resampling.LANCZOS))))
    return np.stack(found)


def _crops(rng: np.random.Generator, count: int, photos: Sequence[np.ndarray]) -> Images:
    """Square parts of photos, uint8 [H, W] or [H, W, 3], reduced to 32x32 pixels."""
    found = []
    for index in range(count):
        photo = Image.fromarray(photos[index % len(photos)]).convert("RGB")
        side = int(rng.integers(48, min(photo.size) + 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        part = photo.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.LANCZOS)
        found.append(np.asarray(part))
    return np.stack(found)


def textures(rng: np.random.Generator, count: int) -> Images:
    """Parts of scikit-image's photos of bricks, grass and gravel."""
    from skimage import data

    return _crops(rng, count, [data.brick(), data.grass(), data.gravel()])


def photos(rng: np.random.Generator, count: int) -> Images:
    """Parts of photos of none of the classes: coffee, coins, stars, the moon, tissue, a retina, a house, a flower."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    shipped = [data.coffee(), data.coins(), data.hubble_deep_field(), data.moon(), data.immunohistochemistry()]
    return _crops(rng, count, [*shipped, data.retina(), *load_sample_images().images])


def printed(rng: np.random.Generator, count: int) -> Images:
    """Parts of scikit-image's scans of printed and written text."""
    from skimage import data

    return _crops(rng, count, [data.page(), data.text()])


def faces(rng: np.random.Generator, count: int) -> Images:
    """scikit-image's 100 grey faces of Labeled Faces in the Wild, and their mirror images."""
    from skimage import data

    found = data.lfw_subset()[:100]
    found = np.rint(255 * np.concatenate([found, found[:, :, ::-1]])).astype(np.uint8)
    chosen = found[rng.permutation(len(found))[:count]]
    return np.stack(
        [np.asarray(Image.fromarray(face).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)) for face in chosen]
    )


def grey_faces(rng: np.random.Generator, count: int) -> Images:
    """The same faces at 28x28 pixels."""
    return np.stack([np.asarray(Image.fromarray(face).convert("L").resize((28, 28))) for face in faces(rng, count)])[
        :, :, :, None
    ]


# By dataset and name, in the order of tables.
SETS: dict[str, dict[str, Source]] = {
    "mnist": {
        "letters": letters,
        "symbols": symbols,
        "drawn shapes": shapes,
        "two digits": two_digits,
        "noise": lambda rng, count: noise(rng, (28, 28, 1), count),
        "patterns": lambda rng, count: patterns(rng, (28, 28, 1), count),
        "CIFAR-10 in grey": grey_cifar10,
        "faces": grey_faces,
    },
    "cifar10": {
        "digits": white_digits,
        "digits in colour": coloured_digits,
        "words": words,
        "printed text": printed,
        "faces": faces,
        "textures": textures,
        "photos": photos,
        "noise": lambda rng, count: noise(rng, (32, 32, 3), count),
        "patterns": lambda rng, count: patterns(rng, (32, 32, 3), count),
    },
}


def make(dataset: str, name: str, count: int) -> Images:
    """Make a set: the same images each time."""
    seed = list(f"{dataset} {name}".encode())
    return SETS[dataset][name](np.random.default_rng(seed), count)
