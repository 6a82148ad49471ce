"""inference.GRPCInferenceService as its clients use it: tritonclient, and grpc alone."""

import asyncio
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from calling import Stub, message, scores, status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient import grpc as triton
from tritonclient.grpc import aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException
from watching import sample


@pytest.fixture
def client(server: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture
def stub(server: Any) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield Stub(channel)


def image(pixels: np.ndarray, kind: str = "UINT8") -> triton.InferInput:
    tensor = triton.InferInput("image", list(pixels.shape), kind)
    tensor.set_data_from_numpy(pixels)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient, server: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("first")
    assert client.is_model_ready("first", "1")
    assert not client.is_model_ready("third")
    assert not client.is_model_ready("first", "2")
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("second", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "probabilities"]
    assert list(client.get_model_config("first").config.input[0].dims) == [32, 32, 3]
    assert {entry.name: entry.state for entry in client.get_model_repository_index().models} == {
        "first": "READY", "second": "READY",
    }  # fmt: skip
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "grpc.health.v1.Health"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: triton.InferenceServerClient, models: list[Any], compression: str | None) -> None:
    for model in models:
        pixels = model.images(3)
        outputs = [triton.InferRequestedOutput(name) for name in ("probabilities", "logits")]
        result = client.infer(
            model.name, [image(pixels)], outputs=outputs, request_id="id 7", model_version="1",
            compression_algorithm=compression,
        )  # fmt: skip
        np.testing.assert_array_equal(result.as_numpy("logits"), model.logits(pixels))
        np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-5)
        answer = result.get_response()
        assert (answer.id, answer.model_name, answer.model_version) == ("id 7", model.name, "1")
        assert [output.name for output in answer.outputs] == ["probabilities", "logits"]


def test_typed_contents(stub: Any, models: list[Any]) -> None:
    pixels = models[1].images(2)
    contents = pb.InferTensorContents(uint_contents=pixels.ravel().tolist())
    tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape, "contents": contents}
    response = stub.ModelInfer(pb.ModelInferRequest(model_name="second", inputs=[tensor]))
    np.testing.assert_array_equal(scores(response), models[1].logits(pixels))


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_encoded_files(
    client: triton.InferenceServerClient, stub: Any, models: list[Any], encode: Any, shape: list[int]
) -> None:
    pixels = models[0].images(2)
    files = [encode(one) for one in pixels]
    result = client.infer("first", [image(np.array(files, object).reshape(shape), "BYTES")])
    np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(pixels))
    contents = pb.InferTensorContents(bytes_contents=files)
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "contents": contents}
    response = stub.ModelInfer(pb.ModelInferRequest(model_name="first", inputs=[tensor]))
    np.testing.assert_array_equal(scores(response), models[0].logits(pixels))
    contents.bytes_contents[1] = b"no image"
    tensor["contents"] = contents
    with pytest.raises(grpc.RpcError, match="file 2 of 2") as caught:
        stub.ModelInfer(pb.ModelInferRequest(model_name="first", inputs=[tensor]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_classification(client: triton.InferenceServerClient, models: list[Any]) -> None:
    model = models[1]
    pixels = model.images(2)
    outputs = [triton.InferRequestedOutput("logits", class_count=3), triton.InferRequestedOutput("probabilities")]
    result = client.infer(model.name, [image(pixels)], outputs=outputs)
    texts = result.as_numpy("logits")
    assert texts.shape == (2, 3)
    for row, logits in zip(texts, model.logits(pixels), strict=True):
        best = np.argsort(-logits)[:3]
        parts = [text.decode().split(":") for text in row]
        assert [int(index) for _, index, _ in parts] == list(best)
        assert [label for _, _, label in parts] == [model.labels[index] for index in best]
    assert result.as_numpy("probabilities").shape == (2, 10)


def test_abstained_is_an_output_for_those_that_name_it(client: triton.InferenceServerClient, models: list[Any]) -> None:
    outputs = [triton.InferRequestedOutput("abstained")]
    result = client.infer("first", [image(models[0].images(3))], outputs=outputs)
    assert result.as_numpy("abstained").tolist() == [False, False, False]
    assert result.get_output("abstained").datatype == "BOOL"


def test_requests_side_by_side(client: triton.InferenceServerClient, server: Any, models: list[Any]) -> None:
    """They share the engine's batches, and each has its own result."""
    runs = sample(server.url, 'serve_run_seconds_count{model="first"}')
    done: queue.Queue[Any] = queue.Queue()
    asked = {}
    for index in range(64):
        pixels = models[0].images(1, seed=index)
        asked[str(index)] = pixels
        client.async_infer(
            "first", [image(pixels)], lambda result, error: done.put((result, error)), request_id=str(index)
        )
    for _ in range(64):
        result, error = done.get(timeout=60)
        assert error is None
        pixels = asked.pop(result.get_response().id)
        np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(pixels))
    assert not asked
    assert sample(server.url, 'serve_run_seconds_count{model="first"}') - runs <= 64


def test_the_asyncio_client(server: Any, models: list[Any]) -> None:
    async def work() -> None:
        async with aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_ready()
            pixels = [models[0].images(1, seed=index) for index in range(20)]
            results = await asyncio.gather(*(client.infer("first", [image(one)]) for one in pixels))
            for one, result in zip(pixels, results, strict=True):
                np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(one))

    asyncio.run(work())


def test_statistics(client: triton.InferenceServerClient, models: list[Any]) -> None:
    client.infer("second", [image(models[1].images(5))])
    (one,) = client.get_inference_statistics("second").model_stats
    assert one.inference_stats.success.count >= 1
    assert one.inference_count >= 5
    assert 5 in [entry.batch_size for entry in one.batch_stats]
    assert one.inference_stats.compute_infer.ns > 0
    assert [entry.name for entry in client.get_inference_statistics().model_stats] == ["first", "second"]
    with pytest.raises(InferenceServerException, match="unknown model 'third'"):
        client.get_inference_statistics("third")


def test_errors_have_the_texts_of_http(client: triton.InferenceServerClient, models: list[Any]) -> None:
    pixels = models[0].images(1)
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"model_name": "third"}, "unknown model 'third'; this server has: first, second", "NOT_FOUND"),
        ({"model_version": "2"}, "unknown version '2' of first", "NOT_FOUND"),
        ({"inputs": [image(models[1].images(1))]}, r"shape of 'image' is \[1, 28, 28, 1\]", "INVALID_ARGUMENT"),
        ({"outputs": [triton.InferRequestedOutput("scores")]}, "output 'scores' is unknown", "INVALID_ARGUMENT"),
        ({"sequence_id": 3}, "sequence_id is not supported", "INVALID_ARGUMENT"),
        ({"inputs": [image(models[0].images(129))]}, "129 images in one request; at most 128", "INVALID_ARGUMENT"),
    ]
    for arguments, words, code in wrong:
        with pytest.raises(InferenceServerException, match=words) as caught:
            client.infer(**{"model_name": "first", "inputs": [image(pixels)], **arguments})
        assert caught.value.status() == f"StatusCode.{code}"
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("region", "key", 1)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    # Not allowed without --model-control explicit.
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="--model-control explicit") as caught:
            change("first")
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


TENSOR: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1]}
RAW = [bytes(784)]


def typed(**values: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, "contents": values}], "raw_input_contents": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "inputs must be a list with the one tensor 'image'"),
        ({"inputs": [TENSOR] * 2}, "inputs must be a list with the one tensor 'image'"),
        ({"inputs": [{**TENSOR, "name": "picture"}]}, "input 'picture' is unknown; valid is 'image'"),
        ({"inputs": [{**TENSOR, "datatype": "FP32"}]}, "valid are 'UINT8' and 'BYTES'"),
        ({"inputs": [{**TENSOR, "shape": [-1, 28, 28, 1]}]}, "valid is ['n', 28, 28, 1]"),
        ({"inputs": [{**TENSOR, "shape": [28, 28]}]}, "valid is ['n', 28, 28, 1]"),
        ({"inputs": [{**TENSOR, "shape": []}]}, "valid is ['n', 28, 28, 1]"),
        ({"inputs": [{**TENSOR, "shape": [1] * 1000}]}, "valid is ['n', 28, 28, 1]"),
        ({"inputs": [{**TENSOR, "shape": [2**62, 28, 28, 1]}]}, "images in one request; at most 128"),
        ({"raw_input_contents": []}, "has its values in neither; valid are raw_input_contents and contents.uint_con"),
        ({"raw_input_contents": RAW * 2}, "raw_input_contents has 2 entries; valid is one for each input: 1"),
        ({"raw_input_contents": [bytes(783)]}, "783 bytes in raw_input_contents; shape [1, 28, 28, 1] takes 784"),
        ({"raw_input_contents": [b""]}, "0 bytes in raw_input_contents"),
        (typed(uint_contents=[0] * 783), "783 values in contents.uint_contents"),
        (typed(uint_contents=[256] * 784), "whole numbers from 0 to 255"),
        (typed(int_contents=[0] * 784), "has its values in int_contents; valid are"),
        (typed(uint_contents=[0] * 784, fp32_contents=[1]), "valid are"),
        ({**typed(uint_contents=[0] * 784), "raw_input_contents": RAW}, "both raw_input_contents and contents.uint"),
        ({"inputs": [{**TENSOR, "datatype": "BYTES", "shape": [1, 28]}]}, "valid is ['n']"),
        (
            {"inputs": [{**TENSOR, "datatype": "BYTES", "shape": [1]}], "raw_input_contents": [b"\xff\xff\xff\xffx"]},
            "element 0 of 'image' claims 4294967295 bytes; 1 follow",
        ),
        (
            {"inputs": [{**TENSOR, "datatype": "BYTES", "shape": [2]}], "raw_input_contents": [b"\x01\0\0\0x"]},
            "'image' has 1 elements; its shape [2] has 2",
        ),
        ({"outputs": [{"name": "logits"}] * 2}, "requested twice"),
        ({"outputs": [{"name": "logits"}] * 5}, "outputs must be a list of at most three tensors"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": {"int64_param": -1}}}]}, "classification is"),
        ({"parameters": {"timeout": {"string_param": "soon"}}}, "timeout is 'soon'"),
        ({"parameters": {"timeout": {"int64_param": -1}}}, "timeout is -1"),
        ({"parameters": {"sequence_start": {"bool_param": True}}}, "sequence_start is not supported"),
        ({"inputs": [{**TENSOR, "parameters": {"shared_memory_region": {"string_param": "x"}}}]}, "shared memory is"),
    ],
)
def test_wrong_requests_get_a_status_that_says_why(stub: Any, change: dict[str, Any], words: str) -> None:
    request = pb.ModelInferRequest(**{"model_name": "second", "inputs": [TENSOR], "raw_input_contents": RAW, **change})
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    code, text = status(caught)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in text


def test_every_call_has_an_id_and_is_counted(stub: Any, server: Any, models: list[Any]) -> None:
    ok = 'serve_requests_total{model="first",outcome="ok",route="grpc_infer"}'
    refused = 'serve_requests_total{model="",outcome="refused",route="grpc_infer"}'
    before = sample(server.url, ok), sample(server.url, refused)
    pixels = models[0].images(1)
    _, call = stub.ModelInfer.with_call(message("first", pixels), metadata=[("x-request-id", "mine")])
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message("third", pixels))
    assert dict(caught.value.trailing_metadata())["x-request-id"]
    assert (sample(server.url, ok), sample(server.url, refused)) == (before[0] + 1, before[1] + 1)


def test_the_repository(tiny: Any, tmp_path: Path, running: Any, port: int) -> None:
    first = tiny(tmp_path / "first").write()
    arguments = ("--models", tmp_path, "--no-app", "--grpc-port", port, "--model-control", "explicit")
    with running(*arguments), triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        second = tiny(tmp_path / "second", seed=2).write()
        assert [entry.state for entry in client.get_model_repository_index().models] == ["READY", "UNAVAILABLE"]
        client.load_model("second")
        pixels = second.images(2)
        np.testing.assert_array_equal(client.infer("second", [image(pixels)]).as_numpy("logits"), second.logits(pixels))
        client.unload_model("first")
        assert not client.is_model_ready("first")
        with pytest.raises(InferenceServerException, match="model 'first' is not ready: unloaded") as caught:
            client.infer("first", [image(first.images(1))])
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        for name in ("third", "..", ""):
            with pytest.raises(InferenceServerException):
                client.load_model(name)
        with pytest.raises(InferenceServerException, match="load takes no parameters"):
            client.load_model("first", config="{}")


def test_the_key(tiny: Any, tmp_path: Path, running: Any, port: int) -> None:
    model = tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--grpc-port", port)
    with (
        running(*arguments, environment={"ZOO_SERVE_API_KEY": "secret"}),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        # As for Kubernetes over HTTP.
        assert client.is_server_live()
        assert client.is_server_ready()
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        tensor = image(model.images(1))
        for headers in (None, {"authorization": "Bearer other"}, {"x-api-key": "secret "}, {"authorization": "secret"}):
            for call in (client.get_server_metadata, lambda headers: client.infer("model", [tensor], headers=headers)):
                with pytest.raises(InferenceServerException, match="this server needs a key") as caught:
                    call(headers=headers)
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(grpc.RpcError) as stream:
            next(Stub(channel).ModelStreamInfer(iter([message("model", model.images(1))])))
        assert stream.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            client.infer("model", [tensor], headers=headers)
