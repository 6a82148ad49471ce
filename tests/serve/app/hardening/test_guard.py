"""The app's routes against strangers; most tests start a server."""

import asyncio
import gzip
import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from watching import eventually, sample

from serve.app.hardening.guard import CALL_BYTES, FORM_BYTES, QUEUED_BYTES, Guard
from serve.app.hardening.streams import STREAMS, Streams
from serve.errors import ApiError
from serve.settings import Settings

LIMIT = 300_000


@pytest.fixture(scope="module")
def served(running: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("models")
    digits = tiny(folder / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(d) for d in range(10)]).write()
    colour = tiny(folder / "improved_resnet18.cifar10").write()
    uploads = tmp_path_factory.mktemp("uploads")
    options = ("--max-body", LIMIT, "--max-pixels", 250_000, "--access-log", "--log-format", "json")
    with (
        running("--models", folder, *options, environment={"GRADIO_TEMP_DIR": str(uploads)}) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield SimpleNamespace(server=server, client=client, digits=digits, colour=colour, uploads=uploads)
        status, errors = server.stop()
        assert status == 0
        assert list(uploads.iterdir()) == []  # the end leaves no file
        # No request of these tests counts as an error of the server, and none wrote a line of the log itself.
        for line in errors.splitlines():
            assert line.startswith("{"), errors[errors.index(line) :]
            assert json.loads(line)["level"] == "info"


def upload(client: httpx.Client, data: bytes) -> str:
    (path,) = client.post("/gradio_api/upload", files={"files": ("picture.png", data)}).json()
    return str(path)


def call(client: httpx.Client, name: str, *inputs: Any) -> httpx.Response:
    return client.post(f"/gradio_api/api/{name}", json={"data": list(inputs)})


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
    limits = {"api/classify_digit": CALL_BYTES, "queue/join": QUEUED_BYTES, "call/models": QUEUED_BYTES}
    for path, limit in {**{f"/gradio_api/{name}": limit for name, limit in limits.items()}, "/": CALL_BYTES}.items():
        before = served.server.memory()
        assert refused(served.client.post(path, content=bytes(limit + 1)), 413, f"{limit:,}")
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
    wrong: list[list[Any]] = [[None], [1, 2], [{"path": 5}, 2], [None, "", 3], [[], []]]
    for inputs in wrong:
        assert refused(call(client, "classify_digit", *inputs), 400), inputs
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--x--\r\n'
    kind = "multipart/form-data; charset=undefined; boundary=x"
    assert client.post("/gradio_api/upload", content=form, headers={"content-type": kind}).status_code == 200
    for path in ("run/models", "call/models", "queue/join", "cancel", "reset"):
        # FastAPI quotes what it refuses, and fails if that is not UTF-8.
        assert client.post(f"/gradio_api/{path}", content=b"\x89PNG").status_code in (400, 422), path
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

        scope = {
            "type": "http",
            "path": f"{prefix}/gradio_api/proxy=http://x",
            "root_path": prefix,
            "headers": [],
            "method": "GET",
        }
        await Guard(app, Settings(), None, None, Streams())(scope, None, send)  # type: ignore[arg-type]
        return said

    assert asyncio.run(say(""))[0] == asyncio.run(say("/zoo"))[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("path", ["run/models", "queue/join", "call/models", "upload", "cancel"])
def test_a_body_has_to_arrive_in_time(impatient: Any, path: str) -> None:
    head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with impatient.connect() as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 408
        assert json.loads(answer.read()) == {"error": "the body did not arrive within 0.3 s"}


@pytest.fixture(scope="module")
def impatient(running: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("models")
    tiny(folder / "model").write()
    with running("--models", folder, "--timeout", 0.3) as server:
        yield server


def test_calls_that_stall_share_the_room_of_all_bodies(running: Any, tiny: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "model").write()
    count = 20
    with running("--models", tmp_path, "--max-body", 2 * 2**20, "--timeout", 600) as server:
        httpx.post(f"{server.url}/gradio_api/run/models", json={"data": []})
        before = server.memory()
        head = f"POST /gradio_api/run/models HTTP/1.1\r\nHost: x\r\nContent-Length: {CALL_BYTES}\r\n\r\n"
        calls = [server.connect() for _ in range(count)]
        for call in calls:
            call.settimeout(0.1)
            with suppress(TimeoutError):  # the server does not read on
                call.sendall(head.encode() + bytes(CALL_BYTES - 1))
        assert server.memory() - before < count * CALL_BYTES / 2
        for call in calls:
            call.close()


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + end


def test_uploads_that_fail_leave_no_files(served: SimpleNamespace) -> None:
    """The fixture looks for those that the end of the server leaves."""
    file = b'name="files"; filename="a.png"\r\n\r\n' + bytes(1000)

    def files() -> set[Path]:
        return {path for path in served.uploads.rglob("*") if path.is_file()}

    def send(body: bytes) -> int:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        return int(served.client.post("/gradio_api/upload", content=body, headers=headers).status_code)

    gone = 'serve_requests_total{model="",outcome="gone",route="other"}'
    own, left = files(), sample(served.server.url, gone)
    too_large = file + bytes(LIMIT)
    assert send(form(file, end=b"")) == 200  # without the closing boundary: no file has arrived
    assert send(form(file.replace(b'"files"', b'"other"'))) == 200
    assert send(form(b'name="files"\r\n\r\ntext', file)) == 400
    assert send(form(file, too_large)) == send(form(too_large, end=b"")) == 413
    assert send(form(file, b"nothing")) in (400, 413)
    with served.server.connect() as connection:
        head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n"
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form(file, end=b""))
    assert eventually(lambda: sample(served.server.url, gone) == left + 1)
    assert files() == own
    # Another file than those of other tests: the same bytes would have the same place.
    assert send(form(file.replace(b"a.png", b"kept.png"))) == 200
    assert len(files() - own) == 1


def test_the_number_of_open_pages_is_bounded() -> None:
    streams = Streams()

    async def work() -> None:
        async def stay() -> None:
            with streams.hold("session"):
                await asyncio.Event().wait()

        open_pages = [asyncio.create_task(stay()) for _ in range(STREAMS)]
        await asyncio.sleep(0)
        assert streams.sessions == {"session": STREAMS}
        with pytest.raises(ApiError, match="too many pages are open") as refusal, streams.hold("one more"):
            pass
        assert (refusal.value.status, refusal.value.retry_after) == (503, 1)
        for page in streams:
            page.cancel()
        await asyncio.wait(open_pages)
        assert all(page.cancelled() for page in open_pages)
        assert not list(streams)
        assert not streams.sessions

    asyncio.run(work())


@pytest.fixture(scope="module")
def roomy(running: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server with the usual limits."""
    folder = tmp_path_factory.mktemp("models")
    tiny(folder / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(d) for d in range(10)]).write()
    tiny(folder / "improved_resnet18.cifar10").write()
    with (
        running("--models", folder, "--timeout", 60) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        call(client, "models")
        yield SimpleNamespace(server=server, client=client)


def growth(server: Any, name: str, paths: list[str]) -> tuple[int, list[int]]:
    """Make a call for each uploaded file, all at once; return by how many bytes the server grew, and the statuses."""
    idle = peak = server.memory()
    statuses: list[int] = []

    def ask(path: str) -> None:
        answer = httpx.post(
            f"{server.url}/gradio_api/{name}", json={"data": [{"path": path}, ""]}, timeout=60, verify=False
        )
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, server.memory())
        time.sleep(0.005)
    return peak - idle, sorted(statuses)


def test_large_uploads_wait_on_the_disk(roomy: SimpleNamespace, encode: Any) -> None:
    """Many calls may name one large file; it is read only while it is decoded."""
    picture = encode(Image.new("RGB", (8, 8))) + bytes(8 * 2**20)
    count = 40
    grown, statuses = growth(roomy.server, "run/classify_picture", [upload(roomy.client, picture)] * count)
    assert statuses == [200] * count
    assert grown < count * len(picture) / 3


def test_large_pictures_cost_less_than_300_megabytes(roomy: SimpleNamespace, encode: Any) -> None:
    clear = Image.merge("RGBA", [Image.linear_gradient("L").resize((5000, 5000))] * 4)
    pictures = [
        encode(clear, compress_level=1),
        encode(clear.convert("RGB"), "JPEG"),
        encode(Image.new("RGBA", (25_000_000, 1))),
        encode(Image.new("LA", (1, 300_000))),
    ]
    grown, statuses = growth(roomy.server, "api/classify_digit", [upload(roomy.client, data) for data in pictures] * 2)
    assert statuses == [200] * 4 + [400] * 4
    assert grown < 300e6
