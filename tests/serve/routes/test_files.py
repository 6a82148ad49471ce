"""Encoded image files: several in one form, digits with any ink, and BYTES tensors."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from serve.images import photos

Encode = Callable[..., bytes]
PAPER = Path(__file__).parents[3] / "serve" / "examples" / "digit-5-on-paper.jpg"


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    arguments = ("--no-app", "--max-images", 4, "--max-body", 4_000_000, "--max-pixels", 5_000_000)
    with running("--models", models[0].folder.parent, *arguments) as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture
def tensors(server: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def form(*files: bytes, name: str = "file") -> list[tuple[str, tuple[str, bytes]]]:
    return [(name, ("image", file)) for file in files]


def test_several_files_get_a_list_in_order(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    """A large one among them is decoded in another thread."""
    files = [encode(pixels) for pixels in models[0].images(3)]
    files[1] = encode(Image.fromarray(models[0].images(3)[1]).resize((512, 512), Image.Resampling.NEAREST))
    alone = [client.post("/classify/a.cifar10?top_k=2", content=file).json() for file in files]
    body = client.post("/classify/a.cifar10?top_k=2", files=form(*files)).json()
    assert all(one.pop("model") == body["model"] == "a.cifar10" for one in alone)
    assert body["results"] == alone
    assert len({entry["predictions"][0]["probability"] for entry in body["results"]}) == 3
    assert client.post("/classify/a.cifar10?top_k=2", files=form(files[0])).json() == {"model": "a.cifar10", **alone[0]}


def test_a_wrong_one_of_several_files_is_named(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    good = encode(models[0].images(1)[0])
    for wrong, status in ((b"x", 415), (good[:60], 400), (encode(Image.new("1", (5001, 1000))), 413)):
        response = client.post("/classify/a.cifar10", files=form(good, wrong, good))
        assert response.status_code == status
        assert response.json()["error"].startswith("file 2 of 3: ")
    response = client.post("/classify/a.cifar10", files=form(*[good] * 5))
    assert response.status_code == 400
    assert response.json()["error"] == "more than 4 files in one form"


def prepared(data: bytes) -> np.ndarray:
    pixels = photos.prepare(Image.open(io.BytesIO(data))).pixels
    assert pixels is not None
    return pixels


def test_digits_with_any_ink_are_prepared_as_in_the_app(
    client: httpx.Client, models: list[Any], encode: Encode
) -> None:
    ink = Image.new("L", (200, 200), 255)
    ink.paste(20, (90, 40, 110, 160))
    blank = encode(Image.new("L", (200, 200), 255))
    two = Image.new("L", (400, 200), 255)
    for left in (80, 300):
        two.paste(20, (left, 40, left + 20, 160))
    photo = PAPER.read_bytes()
    for data, problem in ((encode(ink), None), (photo, None), (encode(two), "several")):
        body = client.post("/classify/b.mnist?ink=auto", content=data).json()
        assert body["problem"] == problem
        assert body["predictions"][0]["index"] == models[1].best(prepared(data))
        as_it_is = client.post("/classify/b.mnist", content=data).json()
        assert as_it_is == client.post("/classify/b.mnist?ink=as-is", content=data).json()
        assert "problem" not in as_it_is
    body = client.post("/classify/b.mnist?ink=auto", content=blank).json()
    assert body == {"model": "b.mnist", "predictions": [], "abstained": True, "problem": "blank"}
    body = client.post("/classify/b.mnist?ink=auto&top_k=1", files=form(blank, photo)).json()
    assert [entry["problem"] for entry in body["results"]] == ["blank", None]
    assert [entry["index"] for entry in body["results"][1]["predictions"]] == [models[1].best(prepared(photo))]


def test_ink_of_other_values_and_models_is_refused(client: httpx.Client) -> None:
    for path, words in (("b.mnist?ink=black", "valid are as-is, auto"), ("a.cifar10?ink=auto", "for models of digits")):
        response = client.post(f"/classify/{path}", content=PAPER.read_bytes())
        assert response.status_code == 422
        assert words in response.json()["error"]


def encoded(files: list[bytes], shape: list[int], *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("image", shape, "BYTES")
    elements = files if binary else [base64.b64encode(file) for file in files]
    tensor.set_data_from_numpy(np.array(elements, dtype=object).reshape(shape), binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("column", [False, True])
def test_bytes_tensors_are_encoded_files(
    tensors: triton.InferenceServerClient, models: list[Any], encode: Encode, binary: bool, count: int, column: bool
) -> None:
    for model in models:
        pixels = model.images(count)
        # With garbage after its end, the JSON is longer than that of any pixels.
        files = [encode(image) + bytes(900_000) for image in pixels]
        shape = [count, 1] if column else [count]
        result = tensors.infer(model.name, [encoded(files, shape, binary=binary)])
        np.testing.assert_array_equal(result.as_numpy("logits"), model.logits(pixels))


def test_the_metadata_say_that_bytes_are_accepted(tensors: triton.InferenceServerClient) -> None:
    text = tensors.get_model_metadata("a.cifar10")["parameters"]["image_as_bytes"]
    assert "BYTES" in text
    assert "PNG" in text
    assert "base64" in text


def test_wrong_files_in_a_tensor_are_named(
    tensors: triton.InferenceServerClient, models: list[Any], encode: Encode
) -> None:
    good = encode(models[0].images(1)[0])
    for wrong, status in ((b"x", "415"), (good[:60], "400"), (encode(Image.new("1", (5001, 1000))), "413")):
        with pytest.raises(InferenceServerException, match="file 2 of 2: ") as caught:
            tensors.infer("a.cifar10", [encoded([good, wrong], [2], binary=True)])
        assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match="5 images in one request; at most 4"):
        tensors.infer("a.cifar10", [encoded([good] * 5, [5], binary=True)])


TENSOR = {"name": "image", "datatype": "BYTES"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shape": [2], "data": ["AAAA"]}, "1 elements; its shape [2] has 2"),
        ({"shape": [1, 2], "data": ["AAAA"]}, "valid is ['n']"),
        ({"shape": [1, 1, 1, 1], "data": ["AAAA"]}, "valid is ['n']"),
        ({"shape": [1], "data": ["no base64!"]}, "each as a base64 text"),
        ({"shape": [1], "data": ["ключ"]}, "each as a base64 text"),
        ({"shape": [1], "data": [7]}, "each as a base64 text"),
        ({"shape": [1], "data": [None]}, "each as a base64 text"),
        ({"shape": [1], "data": "AAAA"}, "neither a list of data"),
        ({"shape": [1]}, "neither a list of data"),
        ({"shape": [2, 1], "data": [["AAAA"], ["AAAA", "AAAA"]]}, "nested, but not like its shape"),
        ({"shape": [2, 1], "data": [["AAAA"], "AAAA"]}, "nested, but not like its shape"),
        ({"shape": [1], "data": [""]}, "the image is empty"),
    ],
)
def test_wrong_json_of_bytes_gets_a_400(client: httpx.Client, more: dict[str, Any], words: str) -> None:
    response = client.post("/v2/models/a.cifar10/infer", json={"inputs": [{**TENSOR, **more}]})
    assert response.status_code == 400
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\5\0\0\0abc", "element 0 of 'image' claims 5 bytes; 3 follow"),
        (b"\1\0\0\0a\xff\xff\xff\xffb", "element 1 of 'image' claims 4294967295 bytes; 1 follow"),
        (b"\1\0\0\0a\1\0", "element 1"),
        (b"\1\0\0\0a", "1 elements"),
    ],
)
def test_wrong_lengths_of_bytes_get_a_400(client: httpx.Client, raw: bytes, words: str) -> None:
    head = json.dumps({"inputs": [{**TENSOR, "shape": [2], "parameters": {"binary_data_size": len(raw)}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = client.post("/v2/models/a.cifar10/infer", content=head + raw, headers=headers)
    assert response.status_code == 400
    assert words in response.json()["error"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_body_may_be_raw_pixels_alone(client: httpx.Client, models: list[Any], count: int) -> None:
    pixels = models[0].images(count)
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/a.cifar10/infer", content=pixels.tobytes(), headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    logits, probabilities = np.frombuffer(response.content[length:], "<f4").reshape(2, count, 10)
    np.testing.assert_array_equal(logits, models[0].logits(pixels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    outputs = json.loads(response.content[:length])["outputs"]
    assert [(output["name"], output["shape"]) for output in outputs] == [
        ("logits", [count, 10]),
        ("probabilities", [count, 10]),
    ]


@pytest.mark.parametrize(("size", "words"), [(0, "0 bytes"), (3071, "3071 bytes"), (5 * 3072, "at most 4")])
def test_raw_pixels_of_other_sizes_get_a_400(client: httpx.Client, size: int, words: str) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/a.cifar10/infer", content=bytes(size), headers=headers)
    assert response.status_code == 400
    assert words in response.json()["error"]
