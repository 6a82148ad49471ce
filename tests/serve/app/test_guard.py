"""The app's routes against strangers; most tests start a server."""

import asyncio
import gzip
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from watching import eventually

from serve.app.guard import CALL_BYTES, FORM_BYTES, Guard
from serve.settings import Settings

LIMIT = 300_000


@pytest.fixture(scope="module")
def served(running: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("models")
    digits = tiny(folder / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(d) for d in range(10)]).write()
    colour = tiny(folder / "improved_resnet18.cifar10").write()
    options = ("--max-body", LIMIT, "--max-pixels", 250_000, "--access-log", "--log-format", "json")
    with running("--models", folder, *options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield SimpleNamespace(server=server, client=client, digits=digits, colour=colour)
        _, errors = server.stop()
        # No request of these tests counts as an error of the server, and none wrote a line of the log itself.
        for line in errors.splitlines():
            assert line.startswith("{"), errors[errors.index(line) :]
            assert json.loads(line)["level"] == "info"


def upload(client: httpx.Client, data: bytes) -> str:
    (path,) = client.post("/gradio_api/upload", files={"files": ("picture.png", data)}).json()
    return str(path)


def call(client: httpx.Client, name: str, *inputs: Any) -> httpx.Response:
    return client.post(f"/gradio_api/run/{name}", json={"data": list(inputs)})


def refused(answer: httpx.Response, status: int, text: str = "") -> bool:
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert text in error, error
    return isinstance(error, str)


def test_uploads_are_classified(served: SimpleNamespace, encode: Any) -> None:
    (pixels,) = served.colour.images(1)
    path = upload(served.client, encode(pixels))
    answer = call(served.client, "classify_picture", {"path": path}, "")
    assert answer.json()["data"][0]["predictions"][0]["index"] == served.colour.best(pixels)


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
@pytest.mark.parametrize("name", ["classify_picture", "classify_digit", "compare"])
def test_files_that_were_not_uploaded_are_not_opened(
    served: SimpleNamespace, encode: Any, tmp_path: Path, name: str, meta: dict[str, Any]
) -> None:
    (pixels,) = served.colour.images(1)
    (tmp_path / "secret.png").write_bytes(encode(pixels))
    uploaded = Path(upload(served.client, encode(pixels)))
    link = uploaded.parent / f"link-{name}-{len(meta)}.png"
    link.symlink_to(tmp_path / "secret.png")
    up = f"{uploaded.parent}/{'../' * 20}{tmp_path}/secret.png"
    said = set()
    paths = [tmp_path / "secret.png", link, up, "/dev/zero", "/proc/self/environ", "/etc", "/nothing", ""]
    for path in paths:
        answer = call(served.client, name, {"path": str(path), **meta}, "")
        assert refused(answer, 400), path
        said.add(answer.json()["error"])
    link.unlink()
    assert len(said) == 1  # the error does not tell which files exist


def test_nothing_is_fetched(served: SimpleNamespace) -> None:
    address = f"{served.server.url}/static/img/logo.svg"
    for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
        answer = call(served.client, "classify_picture", {"path": address, **meta}, "")
        assert refused(answer, 400)
        # Not even for inputs that take no files.
        assert refused(call(served.client, "classify_picture", None, {"path": address, **meta}), 400)
    assert refused(served.client.get(f"/gradio_api/file={address}"), 403, "fetches nothing")
    assert refused(served.client.get(f"/gradio_api/proxy={address}"), 404)


def test_pictures_have_the_same_limits_as_elsewhere(served: SimpleNamespace, encode: Any) -> None:
    path = upload(served.client, encode(Image.new("RGB", (501, 500))))
    for name in ("classify_picture", "classify_digit"):
        assert refused(call(served.client, name, {"path": path}, ""), 400, "at most 250,000 pixels")
    for content, text in (
        (b"", "empty"),
        (b"no picture", "not an image"),
        (encode(Image.effect_noise((99, 99), 50))[:500], "broken"),
    ):
        path = upload(served.client, content)
        assert refused(call(served.client, "classify_picture", {"path": path}, ""), 400, text)


def test_bodies_have_a_limit(served: SimpleNamespace) -> None:
    part = {"files": ("a.png", bytes(LIMIT // 2))}
    files = [("files", part["files"])] * 3  # each file alone is small enough
    assert refused(served.client.post("/gradio_api/upload", files=files), 413, f"{LIMIT + FORM_BYTES:,}")
    assert refused(served.client.post("/gradio_api/upload", files={"files": ("a.png", bytes(LIMIT + 1))}), 413)
    for path in ("/gradio_api/run/classify_digit", "/gradio_api/queue/join", "/"):
        before = served.server.memory()
        assert refused(served.client.post(path, content=bytes(CALL_BYTES + 1)), 413, f"{CALL_BYTES:,}")
        chunks = (bytes(2**20) for _ in range(64))
        try:
            answer = served.client.post(path, content=chunks, headers={"content-type": "application/json"})
            assert answer.status_code in (405, 413)
        except httpx.WriteError:
            pass  # the server responded and closed the connection before all was sent
        assert served.server.memory() - before < 32e6


def test_errors_have_one_form(served: SimpleNamespace) -> None:
    client = served.client
    for method, path in (("GET", "/nope"), ("POST", "/docs"), ("DELETE", "/"), ("POST", "/openapi.json")):
        answer = client.request(method, path)
        assert answer.status_code in (404, 405)
        assert list(answer.json()) == ["error"], path
    assert refused(client.get("/gradio_api/process_recording"), 404)
    assert refused(client.post("/gradio_api/run/models", content=b"{"), 422)
    assert refused(call(client, "nope"), 400, "nope")
    assert refused(client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 99, "session_hash": "x"}), 400)
    assert refused(call(client, "classify_picture", None, "nonsense"), 400)


def test_head_is_answered_where_get_is(served: SimpleNamespace) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs", "/openapi.json"):
        answer = served.client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path


def test_strangers_cannot_write_to_the_log(served: SimpleNamespace) -> None:
    """The fixture reads the log."""
    client = served.client
    assert client.get("/v2/models/x%0Aforged%20line").status_code == 404
    for inputs in ([None], [1, 2], [{"path": 5}, 2], [None, "", 3], [[], []]):
        assert refused(call(client, "classify_digit", *inputs), 400), inputs
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--x--\r\n'
    kind = "multipart/form-data; charset=undefined; boundary=x"
    assert client.post("/gradio_api/upload", content=form, headers={"content-type": kind}).status_code == 200
    assert "404" in client.get("/gradio_api/queue/data", params={"session_hash": "nobody's"}).text


def test_an_aborted_upload_is_no_error_of_the_server(served: SimpleNamespace) -> None:
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nContent-Type: multipart/form-data; "
    with served.server.connect() as connection:
        connection.sendall(
            head + b'boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n'
        )
        time.sleep(0.2)
    gone = 'serve_requests_total{model="",outcome="gone",route="other"}'
    assert eventually(lambda: gone in served.client.get("/metrics").text)


def test_routes_are_closed_behind_a_proxy_s_prefix_too() -> None:
    async def say(prefix: str) -> list[Any]:
        said: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            said.append("open")

        async def send(message: Any) -> None:
            said.append(message.get("status"))

        scope = {"type": "http", "path": f"{prefix}/gradio_api/proxy=http://x", "root_path": prefix, "headers": []}
        await Guard(app, Settings(), None, set())(scope, None, send)  # type: ignore[arg-type]
        return said

    assert asyncio.run(say(""))[0] == asyncio.run(say("/zoo"))[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_open_page_does_not_delay_the_shutdown(running: Any, tiny: Any, tmp_path: Path, number: int) -> None:
    tiny(tmp_path / "model").write()
    # A page that delayed the shutdown would do so for longer than `stop` waits.
    with running("--models", tmp_path, "--shutdown-timeout", 600) as server:
        ended: list[bool] = []
        begun = [threading.Event() for _ in range(3)]

        def stay(begun: threading.Event) -> None:
            with httpx.stream("GET", f"{server.url}/gradio_api/heartbeat/x", timeout=60) as answer:
                for _ in answer.iter_raw():
                    begun.set()
                ended.append(True)  # if the response were cut off, httpx would raise

        pages = [threading.Thread(target=stay, args=(event,)) for event in begun]
        for page in pages:
            page.start()
        assert all(event.wait(30) for event in begun)
        status, errors = server.stop(number)
        for page in pages:
            page.join()
    assert status == 0
    assert errors == "INFO: model is ready: fp32 on cpu\n"
    assert ended == [True] * 3


def test_large_pictures_cost_less_than_300_megabytes(running: Any, tiny: Any, tmp_path: Path, encode: Any) -> None:
    tiny(tmp_path / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(d) for d in range(10)]).write()
    clear = Image.merge("RGBA", [Image.linear_gradient("L").resize((5000, 5000))] * 4)
    pictures = [
        encode(clear, compress_level=1),
        encode(clear.convert("RGB"), "JPEG"),
        encode(Image.new("RGBA", (25_000_000, 1))),
        encode(Image.new("LA", (1, 300_000))),
    ]
    with (
        running("--models", tmp_path, "--timeout", 60) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        paths = [upload(client, data) for data in pictures]
        call(client, "models")
        idle = peak = server.memory()
        done: list[int] = []

        def ask(path: str) -> None:
            answer = httpx.post(
                f"{server.url}/gradio_api/run/classify_digit", json={"data": [{"path": path}, ""]}, timeout=60
            )
            done.append(answer.status_code)

        threads = [threading.Thread(target=ask, args=(path,)) for path in paths * 2]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, server.memory())
            time.sleep(0.005)
    assert sorted(done) == [200] * 4 + [400] * 4
    assert peak - idle < 300e6


def test_clients_that_announce_much_and_send_little_do_not_delay_others(
    running: Any, tiny: Any, tmp_path: Path, encode: Any
) -> None:
    model = tiny(tmp_path / "model").write()
    (pixels,) = model.images(1)
    picture = encode(Image.fromarray(pixels).resize((300, 300)))
    assert len(picture) > 64 * 2**10
    with running("--models", tmp_path, "--no-app", "--timeout", 600) as server:
        head = "POST /classify/model HTTP/1.1\r\nHost: x\r\n"
        idlers = [server.connect() for _ in range(8)]
        for idler in idlers[:4]:
            idler.sendall(f"{head}Content-Length: {16 * 2**20}\r\n\r\nx".encode())
        for idler in idlers[4:]:
            idler.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".encode())
        time.sleep(0.3)
        url = f"{server.url}/classify/model"
        assert httpx.post(url, content=picture, timeout=60).status_code == 200
        assert httpx.post(url, content=iter([picture]), timeout=60).status_code == 200
        squeezed = httpx.post(
            url, content=gzip.compress(encode(pixels)), headers={"content-encoding": "gzip"}, timeout=60
        )
        assert squeezed.status_code == 200
        for idler in idlers:
            idler.close()
