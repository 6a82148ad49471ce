"""Fitting and measuring calibration: on logits whose truth is known, and on splits with little to go by."""

import numpy as np
import pytest
import torch

from train.records import CalibrationFit
from train.training.results import calibration
from zoo.calibration import calibrated


def drawn(images: int, seed: int, factor: float = 1.0, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn by their softmax; the logits are then multiplied: above 1 it is over-confident."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 8, (images, classes))
    cumulated = torch.from_numpy(logits).softmax(1).numpy().cumsum(1)
    labels = (generator.random((images, 1)) > cumulated).sum(1).clip(max=classes - 1)
    return (factor * logits).astype(np.float32), labels


@pytest.mark.parametrize("factor", [4.0, 0.4])
def test_a_network_that_is_too_sure_or_too_unsure_is_repaired(factor: float) -> None:
    fit, notes = calibration.fit(*drawn(5000, 0, factor), "pictures")
    assert notes == []
    assert fit.temperature == pytest.approx(factor, rel=0.15)
    assert fit.curvature < 0.3
    found = calibration.measure(*drawn(20_000, 1, factor), fit)
    assert found.ece_uncalibrated > 0.1
    assert found.ece < 0.012
    plain = calibration.measure(*drawn(20_000, 1, factor), CalibrationFit())
    assert found.nll < plain.nll
    assert found.brier < plain.brier


def test_squeezed_gaps_are_stretched_again() -> None:
    """As label smoothing leaves them: no temperature alone can do it."""
    logits, labels = drawn(8000, 0)
    gaps = logits.max(1, keepdims=True) - logits
    squeezed = -np.log1p(gaps)
    fit, _ = calibration.fit(squeezed[:4000], labels[:4000], "pictures")
    assert fit.curvature > 1
    found = calibration.measure(squeezed[4000:], labels[4000:], fit)
    assert found.ece < 0.03
    temperatures = (calibration.measure(squeezed[4000:], labels[4000:], CalibrationFit(temperature=t)) for t in
                    np.geomspace(0.05, 5, 60))  # fmt: skip
    assert found.nll < min(other.nll for other in temperatures) - 0.01


def test_the_order_of_classes_stays() -> None:
    logits = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    plain = logits.softmax(1)
    assert torch.equal(calibrated(logits), plain)
    for temperature, curvature in ((0.5, 0.0), (0.5, 0.05), (3.0, 8.0)):
        found = calibrated(logits, temperature, curvature)
        torch.testing.assert_close(found.sum(1), torch.ones(1000))
        assert torch.equal(found.argmax(1), plain.argmax(1))
    torch.testing.assert_close(calibrated(logits, 0.5, 0.05), calibrated(logits, 0.5), atol=0.01, rtol=0.05)
    huge = torch.tensor([[1e4, 0.0, -1e4], [3e38, 0, 0]])
    torch.testing.assert_close(calibrated(huge, 0.05, 8.0), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))


def test_a_threshold_keeps_its_promise_on_images_it_has_not_seen() -> None:
    """In nine of ten cases by design; the share of errors among all answers of all cases is below what is promised."""
    kept, coverage = [], []
    for seed in range(40):
        fit, _ = calibration.fit(*drawn(2000, seed, 2.0), "pictures")
        assert fit.abstain_target in calibration.TARGETS
        found = calibration.measure(*drawn(20_000, 1000 + seed, 2.0), fit)
        kept.append(found.accuracy_covered >= fit.abstain_target)
        coverage.append(found.coverage)
        assert found.accuracy_covered > fit.abstain_target - 0.01
    assert np.mean(kept) >= 0.8
    assert min(coverage) > 0.45


def test_mnist_promises_more() -> None:
    logits, labels = np.eye(10, dtype=np.float32)[np.arange(5000) % 10] * 20, np.arange(5000) % 10
    assert calibration.fit(logits, labels, "mnist")[0].abstain_target == 0.999
    assert calibration.fit(logits, labels, "cifar10")[0].abstain_target == 0.99


@pytest.mark.parametrize(("images", "target"), [(3, None), (21, None), (22, 0.9), (45, 0.95), (114, 0.98), (230, 0.99)])
def test_few_images_promise_little(images: int, target: float | None) -> None:
    """All right: of 22 images the share of errors is below 10 % with a confidence of 90 %."""
    logits = np.eye(2, dtype=np.float32)[np.arange(images) % 2] * 4
    fit, notes = calibration.fit(logits, np.arange(images) % 2, "pictures")
    assert fit.abstain_target == target
    assert (fit.abstain_below is None) == (target is None)
    said = f"answers at any probability: {images} validation images, 0 of them wrong"
    assert [note for note in notes if note.startswith(said)] == (notes[:1] if target is None else [])
    # Not certain, whatever the number of images.
    top = calibrated(torch.from_numpy(logits), fit.temperature, fit.curvature).max()
    assert 0.6 < top < 1 - 0.2 / images
    found = calibration.measure(logits, np.arange(images) % 2, fit)
    assert (found.coverage, found.accuracy_covered) == (1, 1)


def test_networks_that_know_nothing_say_so() -> None:
    labels = np.arange(600) % 3
    wrong = np.eye(3, dtype=np.float32)[(labels + 1) % 3] * 5
    fit, notes = calibration.fit(wrong, labels, "pictures")
    assert fit.temperature == calibration.TEMPERATURES[1]
    assert fit.abstain_below is None
    starts = ["the temperature ended at its bound, 20", "answers at any probability", "does not tell unfamiliar images"]
    assert [note.split(":")[0] for note in notes] == starts
    same = np.zeros((600, 3), np.float32)
    fit, notes = calibration.fit(same, labels, "pictures")
    assert np.isfinite([fit.temperature, fit.curvature]).all()
    assert fit.abstain_below is None
    same[7, 1] = np.nan
    fit, notes = calibration.fit(same, labels, "pictures")
    assert fit == CalibrationFit()
    assert notes == ["not calibrated: some logits of validation images are not finite"]


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.9 twice, one of them right, and 0.6 twice, both right."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    assert calibration.ece(probabilities, labels) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    logits = np.log(probabilities).astype(np.float32)
    found = calibration.measure(logits, labels, CalibrationFit(abstain_below=0.8))
    assert found.ece == found.ece_uncalibrated == pytest.approx(0.4, abs=1e-6)
    assert found.nll == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean(), abs=1e-6)
    assert found.brier == pytest.approx(np.mean([0.02, 1.62, 0.32, 0.32]), abs=1e-6)
    assert (found.coverage, found.accuracy_covered) == (0.5, 0.5)
    assert calibration.measure(logits, labels, CalibrationFit(abstain_below=1.0)).accuracy_covered is None
    bins = calibration.reliability(logits, labels, CalibrationFit())
    assert [(row.images, row.accuracy) for row in bins] == [(2, 1.0), (2, 0.5)]
    assert calibration.ece_of(bins) == pytest.approx(0.4, abs=1e-5)
