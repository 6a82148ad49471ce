"""The Open Inference Protocol: with tritonclient, and with wrong requests written by hand."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from serve.errors import BadRequest
from serve.routes import v2_tensors


@pytest.fixture(scope="module")
def models(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny(folder / "first").write(accuracy="12.5"), tiny(folder / "second", shape=(28, 28, 1), seed=1).write()]


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    with running(
        "--models", models[0].folder.parent, "--no-app", "--max-body", 2_000_000, "--model-control", "explicit"
    ) as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def image(pixels: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient, models: list[Any]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("first")
    assert client.is_model_ready("first", "1")
    assert not client.is_model_ready("third")
    assert not client.is_model_ready("first", "2")
    assert set(client.get_server_metadata()) == {"name", "version", "extensions"}
    metadata = client.get_model_metadata("second")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
    assert [(output["name"], output["shape"]) for output in metadata["outputs"]] == [
        ("logits", [-1, 10]),
        ("probabilities", [-1, 10]),
    ]
    assert client.get_model_metadata("first", "1")["parameters"]["accuracy"] == "12.5"
    assert client.get_model_config("first")["input"][0]["dims"] == [32, 32, 3]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client: triton.InferenceServerClient, models: list[Any], binary_in: bool, binary_out: bool) -> None:
    for model in models:
        pixels = model.images(3)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "logits")]
        result = client.infer(model.name, [image(pixels, binary=binary_in)], outputs=outputs, request_id="id 7")
        np.testing.assert_array_equal(result.as_numpy("logits"), model.logits(pixels))
        np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-5)
        answer = result.get_response()
        assert answer["id"] == "id 7"
        assert answer["model_name"] == model.name
        assert answer["model_version"] == "1"
        assert [output["name"] for output in answer["outputs"]] == ["probabilities", "logits"]


def test_infer_without_outputs_gives_both(client: triton.InferenceServerClient, models: list[Any]) -> None:
    pixels = models[0].images(32)
    result = client.infer("first", [image(pixels)], model_version="1")
    np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(pixels))
    assert result.as_numpy("probabilities").shape == (32, 10)
    assert "id" not in result.get_response()


@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
def test_compression(
    client: triton.InferenceServerClient, models: list[Any], sent: str | None, asked: str | None
) -> None:
    pixels = models[0].images(2)
    result = client.infer(
        "first", [image(pixels)], request_compression_algorithm=sent, response_compression_algorithm=asked
    )
    np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(pixels))


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: triton.InferenceServerClient, models: list[Any], binary: bool) -> None:
    model = models[1]
    pixels = model.images(2)
    outputs = [
        triton.InferRequestedOutput("logits", binary_data=binary, class_count=3),
        triton.InferRequestedOutput("probabilities", binary_data=True),
    ]
    result = client.infer(model.name, [image(pixels)], outputs=outputs)
    texts = result.as_numpy("logits")
    assert texts.shape == (2, 3)
    for row, logits in zip(texts, model.logits(pixels), strict=True):
        best = np.argsort(-logits)[:3]
        parts = [text.decode().split(":") if binary else text.split(":") for text in row]
        assert [int(index) for _, index, _ in parts] == list(best)
        assert [label for _, _, label in parts] == [model.labels[index] for index in best]
        np.testing.assert_allclose([float(value) for value, _, _ in parts], logits[best], atol=1e-5)
    assert result.as_numpy("probabilities").shape == (2, 10)


def test_requests_side_by_side(client: triton.InferenceServerClient, server: Any, models: list[Any]) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client:
        asked = []
        for index in range(64):
            model = models[index % 2]
            pixels = model.images(1 + index % 5, seed=index)
            asked.append((model, pixels, client.async_infer(model.name, [image(pixels)], request_id=str(index))))
        for index, (model, pixels, answer) in enumerate(asked):
            result = answer.get_result()
            assert result.get_response()["id"] == str(index)
            np.testing.assert_array_equal(result.as_numpy("logits"), model.logits(pixels))


def test_deadline(tiny: Any, tmp_path: Path, running: Any) -> None:
    model = tiny(tmp_path / "slow").write(cost=20)
    with (
        running("--models", tmp_path, "--no-app") as server,
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
    ):
        with pytest.raises(InferenceServerException, match="no result in time") as caught:
            client.infer("slow", [image(model.images(1))], timeout=1000)
        assert caught.value.status() == "504"
        client.infer("slow", [image(model.images(1))], timeout=10_000_000)


def test_errors_reach_the_client(client: triton.InferenceServerClient, models: list[Any]) -> None:
    pixels = models[0].images(1)
    with pytest.raises(InferenceServerException, match="unknown model 'third'; this server has: first, second"):
        client.infer("third", [image(pixels)])
    with pytest.raises(InferenceServerException, match=r"shape of 'image' is \[1, 28, 28, 1\]"):
        client.infer("first", [image(models[1].images(1))])
    with pytest.raises(
        InferenceServerException, match="output 'scores' is unknown; valid are logits, probabilities, abst"
    ):
        client.infer("first", [image(pixels)], outputs=[triton.InferRequestedOutput("scores")])
    with pytest.raises(InferenceServerException, match="sequence_id is not supported"):
        client.infer("first", [image(pixels)], sequence_id=3)
    with pytest.raises(InferenceServerException, match="129 images in one request; at most 128"):
        client.infer("first", [image(models[0].images(129))])
    with pytest.raises(InferenceServerException, match="nothing is at"):
        client.get_inference_statistics("first")
    with pytest.raises(InferenceServerException, match="nothing is at"):
        client.register_system_shared_memory("region", "key", 1)
    shared = triton.InferInput("image", [1, 32, 32, 3], "UINT8")
    shared.set_shared_memory("region", 3072)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("first", [shared])


TENSOR = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8"}
GOOD = {"inputs": [{**TENSOR, "data": [0] * 784}]}


def change(**more: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, "data": [0] * 784, **more}]}


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ([], "the request must be an object"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": GOOD["inputs"] * 2}, "inputs must be a list"),
        ({**GOOD, "id": 5}, "id is 5"),
        ({**GOOD, "parameters": 5}, "parameters must be an object"),
        ({**GOOD, "parameters": {"timeout": "soon"}}, "timeout is 'soon'"),
        ({**GOOD, "parameters": {"binary_data_output": 1}}, "binary_data_output is 1"),
        ({**GOOD, "outputs": {}}, "outputs must be a list"),
        ({**GOOD, "outputs": [None]}, "an output must be an object"),
        ({**GOOD, "outputs": [{}]}, "output None is unknown"),
        ({**GOOD, "outputs": [{"name": "logits"}] * 2}, "requested twice"),
        ({**GOOD, "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "classification is -1"),
        ({**GOOD, "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]}, "binary_data is 'yes'"),
        (change(name="picture"), "input 'picture' is unknown; valid is 'image'"),
        (change(datatype="FP32"), "valid are 'UINT8' and 'BYTES'"),
        (change(shape=[28, 28]), "valid is ['n', 28, 28, 1]"),
        (change(shape=[-1, 28, 28, 1]), "valid is ['n', 28, 28, 1]"),
        (change(shape=[0, 28, 28, 1]), "valid is ['n', 28, 28, 1]"),
        (change(shape=[2, 28, 28, 1]), "neither 1568 numbers nor nested like its shape [2, 28, 28, 1]"),
        (change(shape=[1000, 28, 28, 1]), "images in one request; at most 128"),
        (change(data=[256] * 784), "whole numbers from 0 to 255"),
        (change(data=[-1] * 784), "whole numbers from 0 to 255"),
        (change(data=[0.5] * 784), "whole numbers from 0 to 255"),
        (change(data=["0"] * 784), "whole numbers from 0 to 255"),
        (change(data=[True] * 784), "whole numbers from 0 to 255"),
        (change(data=[10**30] * 784), "whole numbers from 0 to 255"),
        (change(data=[2**64 - 1] * 784), "whole numbers from 0 to 255"),
        (change(data=[0] * 783 + [[0]]), "whole numbers from 0 to 255"),
        (change(data=[[0], [0, 0]]), "nested like its shape"),
        (change(data=[[0] * 784]), "nested like its shape"),
        (change(data=[[[0] * 28] * 28]), "nested like its shape"),
        (change(data=[[[[[0]]] * 28] * 28]), "whole numbers from 0 to 255"),
        (change(data=[]), "neither 784 numbers"),
        (change(data=None), "neither a list of data nor binary_data_size"),
        (change(parameters={"binary_data_size": 784}), "both data and binary_data_size"),
    ],
)
def test_wrong_json_gets_a_400_that_says_why(server: Any, request_body: Any, words: str) -> None:
    answer = httpx.post(f"{server.url}/v2/models/second/infer", content=json.dumps(request_body))
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1000000", "many", "1.5", "", "0", "٣"])
def test_wrong_header_lengths_get_a_400(server: Any, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode()}
    answer = httpx.post(f"{server.url}/v2/models/second/infer", content=json.dumps(GOOD), headers=headers)
    assert answer.status_code == 400
    assert "error" in answer.json()


@pytest.mark.parametrize(("size", "sent"), [(784, 783), (784, 785), (783, 783), (-1, 784), ("784", 784), (True, 1)])
def test_wrong_binary_sizes_get_a_400(server: Any, size: Any, sent: int) -> None:
    head = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": size}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = httpx.post(f"{server.url}/v2/models/second/infer", content=head + bytes(sent), headers=headers)
    assert answer.status_code == 400
    assert "takes 784" in answer.json()["error"]


def test_nested_data(server: Any, models: list[Any]) -> None:
    pixels = models[1].images(2)
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.tolist()}
    answer = httpx.post(f"{server.url}/v2/models/second/infer", json={"inputs": [tensor]}).json()
    np.testing.assert_array_equal(np.float32(answer["outputs"][0]["data"]).reshape(2, 10), models[1].logits(pixels))


def test_data_of_texts_take_little_memory() -> None:
    """In a NumPy array each text would take as much memory as the longest."""
    nested: list[Any] = [[[[""] for _ in range(28)] for _ in range(28)]]
    nested[0][0][0] = ["x" * 100_000]
    for data in (["x" * 100_000, *[""] * 783], nested):
        body = json.dumps(change(data=data)).encode()
        tracemalloc.start()
        with pytest.raises(BadRequest, match="whole numbers"):
            v2_tensors.parse(body, len(body), (28, 28, 1), max_images=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20e6


def test_json_longer_than_any_valid_request_is_not_parsed(server: Any) -> None:
    """Small lists would take thirty times their bytes of memory."""
    lists = b'{"inputs": [{"data": [' + b"[0]," * 300_000 + b"[0]]}]}"
    for path in ("/v2/models/second/infer", "/v2/repository/index", "/v2/repository/models/second/load"):
        for headers in ({}, {"Inference-Header-Content-Length": str(len(lists))}):
            answer = httpx.post(f"{server.url}{path}", content=lists, headers=headers)
            assert answer.status_code == 413
            assert "bytes of JSON are too many" in answer.json()["error"]
    # The largest request fits, even with spaces in its JSON.
    pixels = [[[[255]] * 28] * 28] * 128
    answer = httpx.post(
        f"{server.url}/v2/models/second/infer", content=json.dumps(change(shape=[128, 28, 28, 1], data=pixels))
    )
    assert answer.status_code == 200


def test_the_repository(tiny: Any, tmp_path: Path, running: Any) -> None:
    first = tiny(tmp_path / "first").write()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").touch()
    with (
        running("--models", tmp_path, "--no-app", "--model-control", "explicit") as server,
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
    ):
        assert server.line.startswith("Serving 1 model on http://127.0.0.1:")

        def states() -> dict[str, str]:
            return {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}

        assert states() == {"first": "READY", "broken": "UNAVAILABLE"}
        (reason,) = (e["reason"] for e in client.get_model_repository_index() if e["name"] == "broken")
        assert f"python train/export.py {tmp_path.name}/broken" in reason
        assert client.is_server_ready()

        # A new model appears in the folder.
        second = tiny(tmp_path / "second", seed=2).write()
        assert states()["second"] == "UNAVAILABLE"
        client.load_model("second")
        pixels = second.images(2)
        np.testing.assert_array_equal(client.infer("second", [image(pixels)]).as_numpy("logits"), second.logits(pixels))

        # A new version replaces the old one; a broken one does not.
        newer = tiny(tmp_path / "first", seed=3).write()
        np.testing.assert_array_equal(client.infer("first", [image(pixels)]).as_numpy("logits"), first.logits(pixels))
        client.load_model("first")
        np.testing.assert_array_equal(client.infer("first", [image(pixels)]).as_numpy("logits"), newer.logits(pixels))
        (tmp_path / "first" / "model.onnx").write_bytes(b"broken")
        with pytest.raises(InferenceServerException, match="does not load") as caught:
            client.load_model("first")
        # Where the server has its files is not a client's concern; its log tells.
        for text in (reason, caught.value.message()):
            assert str(tmp_path) not in text
        assert states()["first"] == "READY"
        np.testing.assert_array_equal(client.infer("first", [image(pixels)]).as_numpy("logits"), newer.logits(pixels))

        client.unload_model("first")
        assert states()["first"] == "UNAVAILABLE"
        assert not client.is_model_ready("first")
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="model 'first' is not ready: unloaded"):
            client.infer("first", [image(pixels)])
        for name in ("third", "..", "%2e%2e%2fmodels"):
            with pytest.raises(InferenceServerException):
                client.load_model(name)
        with pytest.raises(InferenceServerException, match="load takes no parameters"):
            client.load_model("first", config="{}")
        _, errors = server.stop()
    assert f"python train/export.py {tmp_path / 'broken'}" in errors
