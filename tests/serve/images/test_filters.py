"""The filters and the regions do what SciPy's do, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from serve.images.filters import blur, close, dilate, highest
from serve.images.regions import depth, regions

EIGHT = np.ones((3, 3), bool)
SIZES = [(1, 1), (1, 40), (40, 1), (3, 2), (37, 53), (120, 90)]


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.2, 4.7])
def test_blur(shape: tuple[int, int], sigma: float) -> None:
    expected = ndimage.gaussian_filter(noise(shape), sigma, mode="nearest", truncate=3)
    found = blur(noise(shape), sigma)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("window", [1, 3, 5, 7, 17, 61])
def test_dilation_and_closing(shape: tuple[int, int], window: int) -> None:
    values = noise(shape)
    for size in ((window, window), (window, 3)):
        assert np.array_equal(close(values, size), ndimage.grey_closing(values, size, mode="nearest"))
        assert np.array_equal(highest(values, size), ndimage.maximum_filter(values, size, mode="nearest"))
    mask = values > 250
    assert np.array_equal(dilate(mask, window), ndimage.maximum_filter(mask, window, mode="nearest"))


def check_regions(mask: np.ndarray) -> None:
    labels, count = ndimage.label(mask, EIGHT)
    found = regions(mask)
    assert len(found) == count
    assert np.array_equal(found.labels, labels)
    assert found.areas.tolist() == np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist()
    boxes = list(zip(found.top, found.bottom, found.left, found.right, strict=True))
    assert boxes == [(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels)]
    chosen = found.areas >= found.areas.mean() if count else np.zeros(0, bool)
    assert np.array_equal(found.only(chosen), np.isin(labels, 1 + np.flatnonzero(chosen)))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.8, 1.0])
def test_regions(shape: tuple[int, int], share: float) -> None:
    check_regions(noise(shape) < 255 * share)


def test_regions_of_a_spiral_and_of_a_comb() -> None:
    """Their pieces meet late."""
    y, x = np.mgrid[-60:61, -60:61]
    turn = np.hypot(y, x) / 6 - np.arctan2(y, x) / (2 * np.pi)
    check_regions(turn % 1 < 0.5)
    comb = np.zeros((50, 81), bool)
    comb[:, ::2] = comb[-1] = True
    check_regions(comb)
    check_regions(comb[::-1])


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_depth(shape: tuple[int, int], share: float) -> None:
    mask = noise(shape) < 255 * share
    mask[0, 0] = False
    assert np.allclose(depth(mask), ndimage.distance_transform_edt(mask), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_regions_and_depth_of_any_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    check_regions(mask)
    if not mask.all():
        assert np.allclose(depth(mask), ndimage.distance_transform_edt(mask), rtol=1e-12)
