"""Metrics of logits and features: the worst mistakes, and what the features vary along."""

import numpy as np
import pytest

from train import records
from train.cards import evaluation
from train.data import loading
from train.training import models
from train.training.results import measure
from train.training.results.predict import fitting_batch, following_batch


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


def test_macro_f1_counts_each_class_alike() -> None:
    logits = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    found = measure.accuracies(logits, np.array([0, 0, 0, 0, 1, 2]), ["a", "b", "c"])
    # F1: 2*3/(4+3), 2*1/(1+2), 2*1/(1+1)
    assert found["macro_f1"] == round(100 * (6 / 7 + 2 / 3 + 1) / 3, 4)
    assert found["balanced_accuracy"] == round(100 * (3 / 4 + 1 + 1) / 3, 4)
    assert found["test_accuracy"] == round(100 * 5 / 6, 4)
    assert measure.uneven(np.array(found["confusion_matrix"]))
    assert not measure.uneven(np.array([[1, 1], [0, 2]]))


def test_a_class_without_test_images_has_no_accuracy_and_counts_in_no_mean() -> None:
    logits = np.eye(3)[[0, 2, 1, 1]]
    found = measure.accuracies(logits, np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert found["per_class_accuracy"] == {"a": 50.0, "b": 100.0, "c": None}
    assert found["balanced_accuracy"] == 75.0
    assert found["macro_f1"] == round(100 * (2 / 3 + 1) / 2, 4)
    assert records.SplitMetrics(**found).tested_classes == {"a": 50.0, "b": 100.0}


def test_top_five_accuracy_is_for_more_than_five_classes() -> None:
    logits = np.arange(6.0)[None].repeat(3, 0)  # the last class first
    assert measure.accuracies(logits, np.array([0, 1, 5]), list("abcdef"))["top5_accuracy"] == round(200 / 3, 4)
    assert measure.accuracies(logits[:, :5], np.array([0, 1, 4]), list("abcde"))["top5_accuracy"] is None


def test_large_images_are_evaluated_in_smaller_batches() -> None:
    assert fitting_batch((64, 64)) == fitting_batch((28, 28)) == 500
    assert fitting_batch((224, 224)) == 40
    assert fitting_batch((224, 224), 30) == 30
    assert fitting_batch((5000, 5000)) == 1
    assert following_batch((64, 64), 16) == 64
    assert following_batch((64, 64), 128) == 500
    assert following_batch((224, 224), 4) == 16
    assert following_batch((224, 224), 64) == 40


@pytest.mark.parametrize(("batch_size", "largest"), [(None, 7), (3, 3)])
def test_evaluation_never_takes_more_images_at_a_time(
    batch_size: int | None, largest: int, mnist: loading.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.training.results.predict.PIXELS", 7 * 28 * 28 + 1)
    model, seen = models.create("tiny_net", "mnist", 10, 1), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    split = mnist.test.take(slice(20))
    outputs = evaluation.torch_outputs(model, split, batch_size=batch_size)
    assert max(seen) == largest
    assert sum(seen) == len(outputs) == 20
