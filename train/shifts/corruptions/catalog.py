"""The corruptions of each dataset with their parameters, which are those of CIFAR-10-C and MNIST-C, and `corrupt`.

CIFAR-10-C (Hendrycks and Dietterich, 2019): github.com/hendrycks/robustness, `make_cifar_c.py`. MNIST-C (Mu and Gilmer,
2019): github.com/google-research/mnist-c, `corruptions.py`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train.errors import UserError
from train.shifts.corruptions import blur, digital, digits, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)


class UnknownCorruptionError(UserError):
    """A corruption or a severity that does not exist."""


@dataclass(frozen=True)
class Corruption:
    """A corruption of images of one dataset.

    Attributes:
        name: as CIFAR-10-C and MNIST-C call it.
        group: "noise", "blur", "weather", "digital", "geometry" or "strokes".
        function: from an image, float [H, W, C] from 0 to 1, a generator and parameters to the corrupted image.
        levels: the parameters at each severity, the mildest first; one entry for a corruption without severities.
        own: the severity at which MNIST-C has it; None where all five count.
    """

    name: str
    group: str
    function: Callable[..., np.ndarray]
    levels: tuple[tuple[float, ...], ...]
    own: int | None = None

    @property
    def severities(self) -> tuple[int, ...]:
        """The severities that it has: 1 to 5, or 1 alone."""
        return SEVERITIES[: len(self.levels)]


def _levels(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


def _cifar10() -> tuple[Corruption, ...]:
    water = ((0.62, 0.1, 0.7, 0.7, 0.5), (0.65, 0.1, 0.8, 0.7, 0.5), (0.65, 0.3, 1, 0.69, 0.5))
    mud = ((0.65, 0.1, 0.7, 0.69, 0.6), (0.65, 0.1, 0.5, 0.68, 0.6))

    def spatter(image: np.ndarray, rng: np.random.Generator, liquid: float, *values: float) -> np.ndarray:
        return (weather.mud if liquid else weather.water)(image, rng, *values)

    return (
        Corruption("gaussian_noise", "noise", noise.gaussian_noise, _levels(0.04, 0.06, 0.08, 0.09, 0.10)),
        Corruption("shot_noise", "noise", noise.shot_noise, _levels(500, 250, 100, 75, 50)),
        Corruption("impulse_noise", "noise", noise.impulse_noise, _levels(0.01, 0.02, 0.03, 0.05, 0.07)),
        Corruption("speckle_noise", "noise", noise.speckle_noise, _levels(0.06, 0.1, 0.12, 0.16, 0.2)),
        Corruption(
            "defocus_blur", "blur", blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
        ),
        Corruption(
            "glass_blur",
            "blur",
            blur.glass_blur,
            ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ),
        Corruption("motion_blur", "blur", blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
        Corruption("zoom_blur", "blur", blur.zoom_blur, _levels(1.06, 1.11, 1.16, 1.21, 1.26)),
        Corruption("gaussian_blur", "blur", blur.gaussian_blur, _levels(0.4, 0.6, 0.7, 0.8, 1)),
        Corruption(
            "snow",
            "weather",
            weather.snow,
            (
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
        ),
        Corruption(
            "fog",
            "weather",
            weather.fog,
            ((0.2, 3, 32), (0.5, 3, 32), (0.75, 2.5, 32), (1, 2, 32), (1.5, 1.75, 32)),
        ),
        Corruption(
            "spatter", "weather", spatter, (*((0, *values) for values in water), *((1, *values) for values in mud))
        ),
        Corruption("brightness", "weather", weather.brightness, _levels(0.05, 0.1, 0.15, 0.2, 0.3)),
        Corruption("contrast", "digital", digital.contrast, _levels(0.75, 0.5, 0.4, 0.3, 0.15)),
        Corruption(
            "elastic_transform",
            "digital",
            digital.elastic_transform,
            # The sigma of the second severity is 0.2 of the side, more than at the others: so it is in theirs.
            ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ),
        Corruption("pixelate", "digital", digital.pixelate, _levels(0.95, 0.9, 0.85, 0.75, 0.65)),
        Corruption("jpeg_compression", "digital", digital.jpeg_compression, _levels(80, 65, 58, 50, 40)),
        Corruption("saturate", "digital", digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    )


def _mnist() -> tuple[Corruption, ...]:
    angles = _levels(0.2, 0.4, 0.6, 0.8, 1.0)
    return (
        Corruption("shot_noise", "noise", noise.shot_noise, _levels(60, 25, 12, 5, 3), own=5),
        Corruption("impulse_noise", "noise", noise.impulse_noise, _levels(0.03, 0.06, 0.09, 0.17, 0.27), own=4),
        Corruption(
            "glass_blur",
            "blur",
            blur.glass_blur,
            ((0.7, 1, 2, 0.5), (0.9, 2, 1, 0.5), (1, 2, 3, 0.5), (1.1, 3, 2, 0.5), (1.5, 4, 2, 0.5)),
            own=1,
        ),
        Corruption("motion_blur", "blur", blur.motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), own=1),
        Corruption("shear", "geometry", digits.shear, angles, own=2),
        Corruption("scale", "geometry", digits.scale, _levels(0.9, 0.8, 0.7, 0.6, 0.5), own=3),
        Corruption("rotate", "geometry", digits.rotate, angles, own=2),
        Corruption("translate", "geometry", digits.translate, _levels(1, 2, 3, 4, 5), own=3),
        Corruption("brightness", "weather", weather.brightness, _levels(0.1, 0.2, 0.3, 0.4, 0.5), own=5),
        Corruption(
            "fog",
            "weather",
            weather.fog,
            ((1.5, 2, 256), (2, 2, 256), (2.5, 1.7, 256), (2.5, 1.5, 256), (3, 1.4, 256)),
            own=5,
        ),
        Corruption(
            "spatter",
            "weather",
            weather.mud,
            (
                (0.65, 0.3, 4, 0.69, 0.6),
                (0.65, 0.3, 3, 0.68, 0.6),
                (0.65, 0.3, 2, 0.68, 0.5),
                (0.65, 0.3, 1, 0.65, 1.5),
                (0.67, 0.4, 1, 0.65, 1.5),
            ),
            own=4,
        ),
        Corruption("stripe", "strokes", digits.stripe, ((),), own=1),
        Corruption("dotted_line", "strokes", digits.dotted_line, ((),), own=1),
        Corruption("zigzag", "strokes", digits.zigzag, ((),), own=1),
        Corruption("canny_edges", "strokes", digits.canny_edges, ((),), own=1),
    )


# By dataset, in the order of tables and plots.
CORRUPTIONS = {"cifar10": _cifar10(), "mnist": _mnist()}


def find(dataset: str, name: str) -> Corruption:
    """Return a dataset's corruption by its name.

    Raises:
        UnknownCorruptionError: there is none; valid ones are named.
    """
    if dataset not in CORRUPTIONS:
        raise UnknownCorruptionError(
            f"no corruptions are known of images of {dataset!r}: they are of {', '.join(CORRUPTIONS)}"
        )
    found = {corruption.name: corruption for corruption in CORRUPTIONS[dataset]}
    if name not in found:
        raise UnknownCorruptionError(f"no corruption {name!r} of {dataset}: valid are {', '.join(found)}")
    return found[name]


def corrupt(images: np.ndarray, dataset: str, name: str, severity: int) -> np.ndarray:
    """Corrupt images: each one by random numbers that follow from its pixels, the corruption and the severity alone.

    Args:
        images: uint8 [n, H, W, C], of the dataset's own size.
        dataset: "cifar10" or "mnist".
        name: of one of its corruptions.
        severity: from 1 to 5; 1 for a corruption without severities.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        UnknownCorruptionError: there is no such corruption or severity.
    """
    corruption = find(dataset, name)
    if severity not in corruption.severities:
        valid = ", ".join(map(str, corruption.severities))
        raise UnknownCorruptionError(f"no severity {severity} of {name}: valid are {valid}")
    parameters = corruption.levels[severity - 1]
    result = np.empty_like(images)
    for row, image in zip(result, images, strict=True):
        digest = hashlib.blake2b(f"{name} {severity} ".encode() + image.tobytes(), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(digest))
        corrupted = corruption.function(image / 255, rng, *parameters)
        # Cut off, as theirs are, but not what only lacks a rounding error.
        row[:] = corrupted.clip(0, 1) * 255 + 1e-6
    return result
