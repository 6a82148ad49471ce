"""Corruptions: what each one does to an image, and that it depends on nothing but the image."""

import numpy as np
import pytest
from conftest import SAMPLES

from train.data import loading
from train.shifts.corruptions import filters
from train.shifts.corruptions.catalog import CORRUPTIONS, Corruption, UnknownCorruptionError, corrupt

EVERY = [(dataset, corruption) for dataset, known in CORRUPTIONS.items() for corruption in known]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    """Sixteen test images of each dataset, uint8 [16, H, W, C]."""
    found = {}
    for dataset in CORRUPTIONS:
        test = loading.load(dataset, SAMPLES).test
        found[dataset] = test.images[::62][:16].permute(0, 2, 3, 1).contiguous().numpy()
    return found


@pytest.mark.parametrize(("dataset", "corruption"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_depends_on_the_image_alone(dataset: str, corruption: Corruption, images: dict[str, np.ndarray]) -> None:
    mine = images[dataset]
    severity = corruption.severities[-1]
    together = corrupt(mine, dataset, corruption.name, severity)
    assert together.dtype == np.uint8
    assert together.shape == mine.shape
    assert (together != mine).any((1, 2, 3)).all()
    again = corrupt(mine[::-1][:5], dataset, corruption.name, severity)
    np.testing.assert_array_equal(again, together[::-1][:5])


@pytest.mark.parametrize(
    ("dataset", "corruption"),
    # Theirs shift pixels less at higher severities of the elastic transform, but more locally.
    [(dataset, one) for dataset, one in EVERY if len(one.levels) > 1 and one.name != "elastic_transform"],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_highest_severity_is_worse_than_the_first(
    dataset: str, corruption: Corruption, images: dict[str, np.ndarray]
) -> None:
    mine = images[dataset].astype(float)
    low, high = (
        np.abs(corrupt(images[dataset], dataset, corruption.name, severity) - mine).mean() for severity in (1, 5)
    )
    assert low < high


def test_two_images_get_different_noise(images: dict[str, np.ndarray]) -> None:
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    grey[1] += 1
    first, second = corrupt(grey, "cifar10", "gaussian_noise", 3).astype(int)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.1
    assert 0.08 * 255 * 0.9 < first.std() < 0.08 * 255 * 1.1


def test_known_values() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 16, 16] = (200, 100, 50)
    # Value 200 + 0.3 * 255 is cut at 255, hue and saturation remain; black becomes grey.
    brighter = corrupt(image, "cifar10", "brightness", 5)[0]
    assert brighter[16, 16].tolist() == [255, 127, 63]
    assert brighter[0, 0].tolist() == [76, 76, 76]
    assert corrupt(image, "cifar10", "saturate", 2)[0, 16, 16].tolist() == [200, 190, 185]
    flat = corrupt(image, "cifar10", "contrast", 5)[0]
    assert np.ptp(flat[..., 0]) == pytest.approx(0.15 * 200, abs=1)
    digit = np.zeros((1, 28, 28, 1), np.uint8)
    digit[0, 14, 14] = 255
    assert np.flatnonzero(corrupt(digit, "mnist", "stripe", 1)[0, 0, :, 0]).tolist() == [*range(7), *range(21, 28)]
    (moved,) = np.argwhere(corrupt(digit, "mnist", "translate", 3)[0, :, :, 0])
    assert np.abs(moved - 14).tolist() == [3, 3]


def test_motion_goes_along_its_angle() -> None:
    point = np.zeros((21, 21, 1))
    point[10, 10] = 1
    along = filters.motion(point, 8, 3, 0)[:, :, 0]
    assert np.flatnonzero(along.any(1)).tolist() == [10]
    assert along.sum() > 0.9
    across = filters.motion(point, 8, 3, -90)[:, :, 0]
    assert np.flatnonzero(across.any(0)).tolist() == [10]


def test_edges_surround_a_square() -> None:
    image = np.zeros((20, 20))
    image[5:15, 5:15] = 1
    for found in (filters.edges(image, 0.5, 1), filters.edges_of_bytes(image * 255, 50, 150)):
        assert found[4:6].any()
        assert not found[8:12, 8:12].any()
        assert not found[:3].any()
        assert found[10, 4:6].any()
    assert not filters.edges(np.zeros((9, 9)), 0.1, 0.2).any()


def test_mistakes_are_named() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(
        UnknownCorruptionError, match=r"no corruption 'rain' of cifar10: valid are gaussian_noise, shot"
    ):
        corrupt(image, "cifar10", "rain", 1)
    with pytest.raises(UnknownCorruptionError, match=r"no severity 6 of fog: valid are 1, 2, 3, 4, 5"):
        corrupt(image, "cifar10", "fog", 6)
    with pytest.raises(UnknownCorruptionError, match=r"no severity 2 of stripe: valid are 1"):
        corrupt(image, "mnist", "stripe", 2)
    with pytest.raises(UnknownCorruptionError, match=r"'birds': they are of cifar10, mnist"):
        corrupt(image, "birds", "fog", 1)
