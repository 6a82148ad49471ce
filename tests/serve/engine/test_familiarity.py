"""A model that abstains from images whose logits are unlike those of its classes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.engine import familiarity
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo, load
from serve.engine.queues import Result
from serve.errors import ModelLoadError
from serve.settings import Settings
from train.records import Familiarity
from train.training.results import familiarity as fitting

NUMBERS = {"means": [[9.0, 0.0], [0.0, 9.0]], "deviations": [[0.5, 0.5], [0.5, 0.5]], "unknown_above": 10.0}


def result(logits: Any, probabilities: Any, **stated: Any) -> Result:
    info = ModelInfo("m", ["a", "b"], (2, 2, 1), None, "fp32", "cpu", None, {}, **stated)
    return Result(np.array(logits, np.float32), np.array(probabilities, np.float32), info)


def test_far_logits_are_no_answer_though_the_probability_is_one() -> None:
    near = familiarity.parse(json.dumps(NUMBERS), 2)
    logits = [[9, 0], [90, 0], [30, 30], [np.nan, 0], [3e38, -3e38], [0.2, 8.8]]
    certain = [[1, 0]] * 6
    found = result(logits, certain, abstain_below=0.9, familiarity=near)
    assert found.familiar is not None
    assert found.familiar.tolist() == [True, False, False, False, False, True]
    assert found.abstained.tolist() == [False, True, True, True, True, False]
    # Without a threshold for the probability too, and an answer needs both.
    assert result(logits, certain, familiarity=near).abstained.tolist() == found.abstained.tolist()
    assert result(logits[:1], [[0.8, 0.2]], abstain_below=0.9, familiarity=near).abstained.tolist() == [True]
    unknown = result(logits[:3], certain[:3], abstain_below=0.9)
    assert unknown.familiar is None
    assert not unknown.abstained.any()


def test_it_is_what_was_fitted() -> None:
    """The products of matrices, and the formula that the numbers were fitted with."""
    generator = np.random.default_rng(0)
    means, deviations = generator.normal(0, 5, (10, 10)), generator.uniform(0.1, 3, (10, 10))
    logits = generator.normal(0, 6, (2000, 10)).astype(np.float32)
    limit = float(np.median(fitting.distances(logits, Familiarity(
        means=means.tolist(), deviations=deviations.tolist(), unknown_above=0.0
    ))))  # fmt: skip
    fitted = Familiarity(means=means.tolist(), deviations=deviations.tolist(), unknown_above=limit)
    near = familiarity.parse(json.dumps(vars(fitted)), 10)
    expected = fitting.familiar(logits, fitted)
    assert 900 < expected.sum() < 1100
    # The two sums may differ in their last digits: on the limit itself.
    off = np.abs(fitting.distances(logits, fitted) - limit) > 1e-6
    np.testing.assert_array_equal(near.familiar(logits)[off], expected[off])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[1]", "valid is an object with means, deviations, unknown_above"),
        (json.dumps({"means": [], "deviations": []}), "valid is an object with means"),
        (json.dumps(NUMBERS | {"means": [[1.0, 2.0]]}), r"its means have the shape \(1, 2\); valid is \(2, 2\)"),
        (json.dumps(NUMBERS | {"means": [[1.0], [2.0, 3.0]]}), "its means are .* valid are numbers"),
        (json.dumps(NUMBERS | {"means": "high"}), "its means are 'high'; valid are numbers"),
        (json.dumps(NUMBERS | {"means": [[1.0, None], [2.0, 3.0]]}), "its means are not all finite"),
        (json.dumps(NUMBERS | {"deviations": [[0.5, 0], [1, 1]]}), "its deviations have 0; valid is above 0"),
        (json.dumps(NUMBERS | {"unknown_above": float("nan")}), "its unknown_above is nan; valid is a number"),
        (json.dumps(NUMBERS | {"unknown_above": "far"}), "its unknown_above is 'far'; valid is a number"),
        (json.dumps(NUMBERS | {"unknown_above": None}), "its unknown_above is None; valid is a number"),
    ],
)
def test_damaged_metadata_are_refused(text: str, why: str, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        familiarity.parse(text, 2)
    model = tiny(tmp_path / "damaged").write(familiarity=text)
    with pytest.raises(ModelLoadError, match="damaged: metadata familiarity cannot be read: "):
        load(model.folder, Settings(models=tmp_path, device="cpu"))


def test_the_engine_uses_what_the_file_states(tiny: Any, tmp_path: Path) -> None:
    images = tiny(tmp_path / "old").write().images(10)
    logits = tiny(tmp_path / "plain").logits(images)
    classes = logits.shape[1]
    stated = Familiarity(
        means=[[0.0] * classes] * classes, deviations=[[1.0] * classes] * classes, unknown_above=0.0
    )  # fmt: skip
    limit = float(np.median((logits.astype(float) ** 2).sum(1)))
    tiny(tmp_path / "new").write(familiarity=json.dumps(vars(stated) | {"unknown_above": limit}))
    with Engine(Settings(models=tmp_path, device="cpu")) as engine:
        found, old = (asyncio.run(engine.infer(name, images)) for name in ("new", "old"))
    assert found.familiar is not None
    assert old.familiar is None
    assert found.abstained.tolist() == ((logits.astype(float) ** 2).sum(1) > limit).tolist()
    assert 0 < found.abstained.sum() < 10
    assert not old.abstained.any()
