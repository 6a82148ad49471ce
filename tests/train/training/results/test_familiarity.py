"""Telling logits of images of the classes from others: on logits whose origin is known, and where it cannot be done."""

import dataclasses

import numpy as np
import pytest
from pydantic import TypeAdapter

from train import records
from train.records import CalibrationFit, Familiarity
from train.training.results import calibration, familiarity


def known(images: int, seed: int, classes: int = 10) -> np.ndarray:
    """Logits as label smoothing leaves them: that of the class near 9, the others near 0."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return (9 * np.eye(classes)[labels] + generator.normal(0, 0.5, (images, classes))).astype(np.float32)


def test_new_images_of_the_classes_are_familiar_and_far_logits_are_not() -> None:
    found, notes = familiarity.fit(known(5000, 0))
    assert notes == []
    assert found is not None
    assert 0.975 < familiarity.familiar(known(5000, 1), found).mean() < 0.995
    # As certain as can be, and unlike any class: all logits are high, or one is twice what it should be.
    for strange in (np.full(10, 30.0) + 30 * np.eye(10), 18 * np.eye(10), np.zeros((3, 10)), -known(10, 2)):
        assert not familiarity.familiar(strange, found).any()
    assert not familiarity.familiar(np.array([[np.nan] * 10, [np.inf] + [0.0] * 9]), found).any()
    assert familiarity.familiar(known(10, 1), None).all()


def test_a_network_abstains_from_far_logits_though_it_is_certain() -> None:
    logits, labels = known(5000, 0), np.arange(5000) % 10
    fit, _ = calibration.fit(logits, labels, "pictures")
    certain = np.concatenate([known(500, 1), 60 * np.eye(10, dtype=np.float32)[np.arange(500) % 10]])
    right = np.arange(1000) % 10
    assert calibration.measure(certain, right, dataclasses.replace(fit, familiarity=None)).coverage > 0.95
    found = calibration.measure(certain, right, fit)
    assert 0.45 < found.coverage < 0.5
    assert found.accuracy_covered == 1


def test_distances_follow_the_formula() -> None:
    fitted = Familiarity(means=[[1.0, -1.0], [0.0, 2.0]], deviations=[[0.5, 2.0], [1.0, 4.0]], unknown_above=3.0)
    x = np.array([[1.5, 1.0], [0.0, 0.0]])
    first = [1**2 + 1**2 + 2 * np.log(0.5 * 2), 2**2 + 0.5**2 + 0]
    second = [1.5**2 + 0.25**2 + 2 * np.log(4), 0 + 0.5**2 + 2 * np.log(4)]
    np.testing.assert_allclose(familiarity.distances(x, fitted), np.minimum(first, second))
    assert familiarity.familiar(x, fitted).tolist() == [first[0] <= 3, second[1] <= 3]


def test_numbers_are_short_and_survive_json() -> None:
    found, _ = familiarity.fit(known(1000, 0))
    assert found is not None
    numbers = [*np.ravel(found.means), *np.ravel(found.deviations), found.unknown_above]
    assert all(float(f"{number:.4g}") == number for number in numbers)
    fit = CalibrationFit(familiarity=found)
    assert TypeAdapter(CalibrationFit).validate_python(records.as_dict(fit)) == fit


def test_the_limit_is_that_of_the_rounded_numbers() -> None:
    logits = known(5000, 0)
    found, _ = familiarity.fit(logits)
    assert found is not None
    assert familiarity.familiar(logits, found).mean() == pytest.approx(familiarity.KEPT, abs=0.002)


@pytest.mark.parametrize("images", [200, 500, 2000])
def test_few_images_do_not_make_many_others_unfamiliar(images: int) -> None:
    shares = []
    for seed in range(5):
        found, _ = familiarity.fit(known(images, seed))
        assert found is not None
        shares.append(1 - familiarity.familiar(known(5000, 100 + seed), found).mean())
    assert np.mean(shares) < (0.1 if images == 200 else 0.06)


def test_a_class_with_few_images_has_the_deviations_of_all() -> None:
    logits = known(1000, 0)
    rare = np.concatenate([logits[logits.argmax(1) != 3], logits[logits.argmax(1) == 3][:1]])
    found, notes = familiarity.fit(rare)
    assert notes == []
    assert found is not None
    np.testing.assert_allclose(found.deviations[3], 0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("logits", "why"),
    [
        (known(500, 0, classes=101), "the network has 101 classes, more than 100"),
        (known(199, 0), "199 validation images are fewer than 200"),
        (known(200, 0) * [1, 1, 1, 1, 1, 1, 1, 0, 1, 1], "no validation image is taken for class 7"),
        (9 * np.eye(10)[np.arange(200) % 10], "logits of the same class do not differ"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_a_line(logits: np.ndarray, why: str) -> None:
    assert familiarity.fit(logits) == (None, [f"does not tell unfamiliar images: {why}"])
