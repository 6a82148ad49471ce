"""Metrics of logits and features: the worst mistakes, and what the features vary along."""

import numpy as np
import pytest

from train.training import measure


def test_the_most_confident_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1])
    found = measure.confident_mistakes(np.log(probabilities) + 100, labels, 9)
    assert found == [
        {"row": 2, "label": 0, "prediction": 1, "probability": 0.8},
        {"row": 1, "label": 0, "prediction": 1, "probability": 0.6},
    ]
    assert measure.confident_mistakes(np.log(probabilities), labels, 1) == found[:1]


def test_features_are_shown_along_what_they_vary_along_most() -> None:
    generator = np.random.default_rng(0)
    along = generator.normal(size=(2000, 3)) * (0.5, 5, 2)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    points, shares = measure.principal_components((along @ turn + 7).astype(np.float32))
    assert points.shape == (2000, 2)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-4)
    for component, column in ((0, 1), (1, 2)):
        assert abs(np.corrcoef(points[:, component], along[:, column])[0, 1]) > 0.99
    assert shares == pytest.approx([25 / 29.25, 4 / 29.25], abs=0.02)
