"""HTTP: /classify, the one form of errors, limits, keys, metrics."""

import base64
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.images.formats import decode, fit

Encode = Callable[..., bytes]
LIMIT = 300_000


@pytest.fixture(scope="module")
def server(models: list[Any], running: Any) -> Iterator[Any]:
    with running("--models", models[0].folder.parent, "--no-app", "--max-body", LIMIT, "--timeout", 3) as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def is_error(answer: httpx.Response, status: int) -> bool:
    body = answer.json()
    return answer.status_code == status and list(body) == ["error"] and isinstance(body["error"], str)


def test_classify(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    for model in models:
        (pixels,) = model.images(1)
        logits = model.logits(pixels[None])[0].astype(float)
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        answer = client.post(f"/classify/{model.name}", content=encode(pixels))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert body["model"] == model.name
        order = [entry["index"] for entry in body["predictions"]]
        assert order == list(np.argsort(-expected)[:5])
        for entry in body["predictions"]:
            assert entry["label"] == model.labels[entry["index"]]
            assert entry["probability"] == pytest.approx(expected[entry["index"]], rel=1e-4, abs=1e-7)


def test_forms_and_raw_bodies_give_the_same_response(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    data = encode(models[0].images(1)[0])
    raw = client.post("/classify/a.cifar10", content=data)
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain"):
        assert client.post("/classify/a.cifar10", content=data, headers={"content-type": kind}).content == raw.content
    form = client.post("/classify/a.cifar10", files={"file": ("x.png", data, "image/png")}, data={"more": "text"})
    assert form.content == raw.content
    chunks = client.post("/classify/a.cifar10", content=iter([data[:100], data[100:]]))
    assert chunks.content == raw.content
    for coding, pack in (("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)):
        packed = client.post("/classify/a.cifar10", content=pack(data), headers={"content-encoding": coding})
        assert packed.content == raw.content


def test_top_k(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    data = encode(models[0].images(1)[0])
    for top, count in (("1", 1), ("10", 10), ("1000", 10)):
        answer = client.post(f"/classify/a.cifar10?top_k={top}", content=data).json()
        assert len(answer["predictions"]) == count
    for top in ("0", "-1", "x", "1.5", "", "9" * 30, "%D9%A3"):
        assert is_error(client.post(f"/classify/a.cifar10?top_k={top}", content=data), 422), top


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"text", 415), (b"\x89PNG\r\n\x1a\n", 415), (b"<svg/>", 415), (bytes(LIMIT + 1), 413)],
)
def test_bad_images(client: httpx.Client, content: bytes, status: int) -> None:
    assert is_error(client.post("/classify/a.cifar10", content=content), status)


def test_bad_forms(client: httpx.Client, encode: Encode) -> None:
    post = client.post
    assert is_error(post("/classify/a.cifar10", files={"picture": b"x"}), 400)
    assert is_error(post("/classify/a.cifar10", data={"file": "x"}, files={"other": b""}), 400)
    assert is_error(post("/classify/a.cifar10", files={"file": b""}), 400)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"):
        assert is_error(post("/classify/a.cifar10", content=b"--y\r\n", headers={"content-type": kind}), 400), kind


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "undefined", "punycode", "no-such"])
def test_a_form_s_charset_changes_nothing(
    client: httpx.Client, models: list[Any], encode: Encode, charset: str
) -> None:
    (image,) = models[0].images(1)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + encode(image) + b"\r\n--x--\r\n"
    )
    for option in (f"Charset={charset}", f"charset ={charset}", f'charset="{charset};b"'):
        kind = f"multipart/form-data; {option}; boundary=x"
        answer = client.post("/classify/a.cifar10", content=body, headers={"content-type": kind})
        assert answer.json()["predictions"][0]["index"] == models[0].best(image), option


def test_an_empty_content_encoding_is_none(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    content = encode(models[0].images(1)[0])
    assert client.post("/classify/a.cifar10", content=content, headers={"content-encoding": ""}).status_code == 200


def test_unknown_things(client: httpx.Client, encode: Encode) -> None:
    answer = client.post("/classify/c", content=b"x")
    assert is_error(answer, 404)
    assert "a.cifar10, b.mnist" in answer.json()["error"]
    assert is_error(client.post("/classify/broken", content=b"x"), 503)
    for path in (
        "/nothing",
        "/classify",
        "/classify/",
        "/v2/nothing",
        "/v2/models/a.cifar10/versions/2",
        "/v2/models/x",
    ):
        assert is_error(client.get(path), 404), path
    for method, path, allowed in (
        ("GET", "/classify/a.cifar10", "POST"),
        ("DELETE", "/v2", "GET"),
        ("POST", "/v2/models/a.cifar10", "GET"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/metrics", "GET"),
    ):
        answer = client.request(method, path)
        assert is_error(answer, 405), path
        assert answer.headers["allow"] == allowed


def test_bodies_have_a_limit(client: httpx.Client, encode: Encode) -> None:
    paths = ("/classify/a.cifar10", "/v2/models/a.cifar10/infer", "/v2/repository/index")
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < LIMIT
    for path in paths:
        assert is_error(client.post(path, content=bytes(LIMIT + 1)), 413)
        assert is_error(client.post(path, content=iter([bytes(LIMIT), b"x"])), 413)
        assert is_error(client.post(path, content=bomb, headers={"content-encoding": "gzip"}), 413)
        assert is_error(client.post(path, content=b"no gzip", headers={"content-encoding": "gzip"}), 400)
        assert is_error(client.post(path, content=bomb[:90], headers={"content-encoding": "gzip"}), 400)
        assert is_error(client.post(path, content=b"x", headers={"content-encoding": "br"}), 415)


def test_large_images_beside_small_ones(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    """Images of many sizes at once are decoded in other threads, and each client still gets its own result."""
    pictures = []
    for index in range(24):
        (pixels,) = models[0].images(1, seed=index)
        scale = (1, 8, 32)[index % 3]
        picture = Image.fromarray(pixels).resize((32 * scale, 32 * scale), Image.Resampling.NEAREST)
        data = encode(picture)
        pictures.append((data, models[0].best(fit(decode(data, enough=256), (32, 32, 3)))))

    def ask(entry: tuple[bytes, int]) -> bool:
        answer = client.post("/classify/a.cifar10", content=entry[0]).json()
        return bool(answer["predictions"][0]["index"] == entry[1])

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, pictures))


def test_request_ids(client: httpx.Client) -> None:
    made = {client.get("/v2").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert client.get("/nothing", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("x" * 200, "a b"):
        assert client.get("/v2", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def sample(text: str, name: str, **labels: str) -> float:
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{key}="{value}"' in head for key, value in labels.items()):
            return float(value)
    return 0.0


def test_metrics(client: httpx.Client, models: list[Any], encode: Encode) -> None:
    data = encode(models[1].images(1)[0])
    before = client.get("/metrics").text
    for _ in range(3):
        client.post("/classify/b.mnist", content=data)
    client.post("/classify/b.mnist", content=b"bad")
    client.post("/classify/unknown", content=data)
    client.get("/v2")
    after = client.get("/metrics")

    def grown(name: str, **labels: str) -> float:
        return sample(after.text, name, **labels) - sample(before, name, **labels)

    assert grown("serve_requests_total", route="classify", model="b.mnist", outcome="ok") == 3
    assert grown("serve_requests_total", route="classify", model="b.mnist", outcome="refused") == 1
    assert grown("serve_requests_total", route="classify", model="", outcome="refused") == 1
    assert grown("serve_requests_total", route="v2_server", model="", outcome="ok") == 1
    assert "unknown" not in after.text
    assert grown("serve_decode_seconds_count") == 3
    for name in ("serve_queue_seconds_count", "serve_run_seconds_count", "serve_batch_size_sum"):
        assert grown(name, model="b.mnist") == 3
    assert sample(after.text, "serve_queue_images") == 0
    assert sample(after.text, "serve_models_ready") == 2
    assert sample(after.text, "process_resident_memory_bytes") > 1e7


def test_the_format_of_metrics_is_the_client_s_choice(client: httpx.Client) -> None:
    plain = "text/plain; version=0.0.4; charset=utf-8"
    prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    for accept, kind in (
        ("", plain),
        ("*/*", plain),
        ("text/html", plain),
        ("application/openmetrics-text; version=new", plain),
        ("text/plain; version=new", plain),
        (prometheus, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ):
        response = client.get("/metrics", headers={"accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind), accept
        assert response.text.endswith("# EOF\n") == (kind != plain)


def test_requests_for_models_that_are_not_ready_are_counted_apart(client: httpx.Client) -> None:
    before = client.get("/metrics").text
    client.post("/classify/broken", content=b"x")
    client.get("/v2/models/broken/ready")
    client.get("/v2/health/ready?strict")
    after = client.get("/metrics").text
    for route in ("classify", "v2_model_ready", "v2_ready"):
        assert sample(after, "serve_requests_total", outcome="not_ready", route=route) == 1 + sample(
            before, "serve_requests_total", outcome="not_ready", route=route
        )


def test_ready_can_mean_all_models(client: httpx.Client) -> None:
    for query in ("", "?strict=false", "?strict=0"):
        assert client.get(f"/v2/health/ready{query}").json() == {"ready": True}
    for query in ("?strict", "?strict=", "?strict=true", "?strict=1"):
        response = client.get(f"/v2/health/ready{query}")
        assert is_error(response, 503)
        assert response.json()["error"] == "not ready: not loaded: broken"
        assert response.headers["retry-after"] == "1"
    assert is_error(client.get("/v2/health/ready?strict=maybe"), 422)


def test_keys(models: list[Any], running: Any, encode: Encode) -> None:
    data = encode(models[0].images(1)[0])
    key = {"ZOO_SERVE_API_KEY": "secret ключ"}
    with running("--models", models[0].folder.parent, "--no-app", environment=key) as server:
        with httpx.Client(base_url=server.url) as client:
            basic = base64.b64encode("anybody:secret ключ".encode()).decode()
            good: list[Any] = [
                {"authorization": "Bearer secret ключ".encode()},
                {"x-api-key": "secret ключ".encode()},
                {"authorization": f"Basic {basic}"},
            ]
            bad: list[Any] = [
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Bearer"},
                {"authorization": "Basic !!!"},
                {"authorization": b"Basic \xe9"},
                {"authorization": f"Basic {base64.b64encode(bytes([255, 58, 255])).decode()}"},
                {"x-api-key": ""},
            ]
            for headers in good:
                assert client.post("/classify/a.cifar10", content=data, headers=headers).status_code == 200
            for headers in bad:
                for path in (
                    "/classify/a.cifar10",
                    "/v2/models/a.cifar10/infer",
                    "/v2/repository/models/a.cifar10/unload",
                ):
                    answer = client.post(path, content=data, headers=headers)
                    assert is_error(answer, 401)
                    assert answer.headers["www-authenticate"].startswith("Basic")
                assert client.get("/metrics", headers=headers).status_code == 401
            # A browser asks its user for the key as a password; for the app's pages too, as test_key.py shows.
            assert client.get("/docs").headers["www-authenticate"].startswith("Basic")
            assert client.get("/docs", headers=good[2]).status_code == 200
            assert client.get("/v2/health/live").status_code == 200
            assert client.get("/v2/health/ready").status_code == 200
        _, errors = server.stop()
    assert "secret" not in errors


def test_docs(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "://" not in page.replace("http://www.w3.org", "")
    for file in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(file).status_code == 200, file
    description = client.get("/openapi.json").json()
    paths = description["paths"]
    assert "post" in paths["/classify/{model}"]
    assert "post" in paths["/v2/models/{model}/infer"]
    assert {"200", "404", "503", "504"} <= set(paths["/classify/{model}"]["post"]["responses"])


def test_the_factory_works_for_other_hosts(tiny: Any, tmp_path: Path, encode: Encode) -> None:
    """Other hosts build the application themselves; here it is Starlette's test client."""
    from starlette.testclient import TestClient

    from serve.api import create_app
    from serve.settings import Settings

    model = tiny(tmp_path / "model").write()
    app = create_app(Settings(models=tmp_path, app=False))
    (pixels,) = model.images(1)
    # The larger one is decoded in another thread.
    pictures = [encode(pixels), encode(pixels.repeat(8, 0).repeat(8, 1))]
    for _ in range(2):  # start, end, start again
        with TestClient(app) as client:
            app.state.engine.wait()
            for data in pictures:
                answer = client.post("/classify/model", content=data).json()
                assert answer["predictions"][0]["index"] == model.best(fit(decode(data), model.shape))
