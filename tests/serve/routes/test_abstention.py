"""Models that abstain where the best probability is low or the logits are unlike those of their classes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from serve.engine.models import ModelInfo, load
from serve.engine.queues import Result
from serve.errors import ModelLoadError
from serve.settings import Settings


def best_probabilities(model: Any, images: np.ndarray) -> np.ndarray:
    logits = model.logits(images).astype(float)
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray((scores / scores.sum(1, keepdims=True)).max(1))


@pytest.fixture(scope="module")
def careful(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray]:
    """A model that abstains from half of ten images, and bool [10]: from which ones."""
    model = tiny(tmp_path_factory.mktemp("models") / "careful")
    best = best_probabilities(model, model.images(10))
    threshold = float(np.median(best))
    return model.write(abstain_below=repr(threshold)), best < threshold


@pytest.fixture(scope="module")
def narrow(careful: tuple[Any, np.ndarray], tiny: Any) -> np.ndarray:
    """A model to which some of the images are unfamiliar, and bool [10]: which ones it abstains from."""
    model, _ = careful
    logits = model.logits(model.images(10)).astype(float)
    rows = [[0.0] * logits.shape[1]] * logits.shape[1]
    limit = float(np.quantile((logits**2).sum(1), 0.7))
    familiarity = {"means": rows, "deviations": (np.array(rows) + 1).tolist(), "unknown_above": limit}
    tiny(model.folder.parent / "narrow").write(familiarity=json.dumps(familiarity))
    return np.asarray((logits**2).sum(1) > limit)


@pytest.fixture(scope="module")
def server(careful: tuple[Any, np.ndarray], narrow: np.ndarray, tiny: Any, running: Any) -> Iterator[Any]:
    folder = careful[0].folder.parent
    tiny(folder / "bold").write()
    with running("--models", folder, "--no-app") as server:
        yield server


def test_classify_says_whether_the_model_abstains(
    server: Any, careful: tuple[Any, np.ndarray], narrow: np.ndarray, encode: Callable[..., bytes]
) -> None:
    model, expected = careful
    files = [encode(pixels) for pixels in model.images(10)]
    assert set(expected) == {False, True}
    with httpx.Client(base_url=server.url) as client:
        for file, abstains in zip(files[:4], expected[:4], strict=True):
            body = client.post("/classify/careful?top_k=1", content=file).json()
            assert body["abstained"] is bool(abstains)
            assert len(body["predictions"]) == 1
            assert client.post("/classify/bold", content=file).json()["abstained"] is False
        several = client.post("/classify/careful", files=[("file", ("image", file)) for file in files]).json()
        assert [result["abstained"] for result in several["results"]] == expected.tolist()
        unlike = client.post("/classify/narrow", files=[("file", ("image", file)) for file in files]).json()
        assert unlike["results"][0].keys() == {"predictions", "abstained"}
        assert [result["abstained"] for result in unlike["results"]] == narrow.tolist()
        assert set(narrow) == {False, True}


@pytest.mark.parametrize("binary", [True, False])
def test_the_protocol_has_it_as_an_output_on_request(
    server: Any, careful: tuple[Any, np.ndarray], narrow: np.ndarray, binary: bool
) -> None:
    model, expected = careful
    pixels = model.images(10)
    image = triton.InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        names = ("abstained", "logits", "probabilities")
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = client.infer("careful", [image], outputs=outputs)
        assert result.get_output("abstained")["datatype"] == "BOOL"
        np.testing.assert_array_equal(result.as_numpy("abstained"), expected)
        np.testing.assert_array_equal(result.as_numpy("logits"), model.logits(pixels))
        assert not client.infer("bold", [image], outputs=outputs).as_numpy("abstained").any()
        unlike = client.infer("narrow", [image], outputs=outputs).as_numpy("abstained")
        np.testing.assert_array_equal(unlike, narrow)
        # Who does not ask for it gets what the model's metadata list.
        usual = client.infer("careful", [image]).get_response()["outputs"]
        metadata = client.get_model_metadata("careful")
        assert [output["name"] for output in usual] == [output["name"] for output in metadata["outputs"]]
        assert "BOOL" in metadata["parameters"]["abstained"]
        assert 0 < float(metadata["parameters"]["abstain_below"]) < 1
        with pytest.raises(InferenceServerException, match="classification is for logits and probabilities, not for"):
            client.infer("careful", [image], outputs=[triton.InferRequestedOutput("abstained", class_count=2)])


def test_probabilities_that_are_no_numbers_are_no_answer() -> None:
    info = ModelInfo("m", ["a", "b"], (2, 2, 1), None, "fp32", "cpu", None, {}, abstain_below=0.8)
    scores = np.array([[np.nan, np.nan], [0.9, 0.1], [0.5, 0.5]], np.float32)
    assert Result(scores, scores, info).abstained.tolist() == [True, False, True]


@pytest.mark.parametrize("value", ["nan", "1.5", "-0.1", "high"])
def test_a_threshold_that_is_no_probability_is_refused(value: str, tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "wrong").write(abstain_below=value)
    with pytest.raises(ModelLoadError, match=r"abstain_below (is|cannot be read).*" + value):
        load(model.folder, Settings(models=tmp_path, device="cpu"))


def test_a_file_without_a_threshold_always_answers(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "old").write()
    assert load(model.folder, Settings(models=tmp_path, device="cpu")).info.abstain_below is None
