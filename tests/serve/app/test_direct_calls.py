"""The client functions over plain HTTP: as Gradio answers them, bounded, and with the API's errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serve.api import create_app
from serve.app import direct_calls
from serve.app.direct_calls import DirectCalls
from serve.app.hardening.guard import QUEUED_BYTES
from serve.errors import ModelNotFound
from serve.http.bodies import Bodies
from serve.settings import Settings


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=60)


async def other(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"other"})


def event_of(text: str) -> tuple[str, Any]:
    kind, data, *rest = text.split("\n")
    assert rest == ["", ""]
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


class Functions:
    """Functions to call; those that wait do so until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def add(self, first: int, second: int = 1) -> int:
        return first + second

    async def wait(self) -> str:
        await self.gate.wait()
        return "done"

    async def refuse(self) -> None:
        raise ModelNotFound("nonsense", ["one", "two"])

    async def fail(self) -> None:
        raise ZeroDivisionError

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        names = ("add", "wait", "refuse", "fail")
        app = DirectCalls(other, {name: getattr(self, name) for name in names}, Bodies(Settings()))
        async with client_of(app) as client:
            yield client


def test_results_come_at_once_or_as_an_event() -> None:
    async def steps() -> None:
        async with Functions().client() as client:
            answer = await client.post("/gradio_api/run/add", json={"data": [2]})
            assert (answer.status_code, answer.json()["data"], answer.json()["is_generating"]) == (200, [3], False)
            begun = (await client.post("/gradio_api/call/add", json={"data": [2, 5]})).json()
            answer = await client.get(f"/gradio_api/call/add/{begun['event_id']}")
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert event_of(answer.text) == ("complete", [7])
            again = await client.get(f"/gradio_api/call/add/{begun['event_id']}")
            assert again.status_code == 404
            assert begun["event_id"] in again.json()["error"]

    asyncio.run(steps())


def test_errors_have_the_api_s_statuses(caplog: pytest.LogCaptureFixture) -> None:
    async def steps() -> None:
        async with Functions().client() as client:
            answer = await client.post("/gradio_api/run/refuse", json={"data": []})
            assert answer.status_code == 404
            assert "nonsense" in answer.json()["error"]
            event = (await client.post("/gradio_api/call/refuse", json={"data": []})).json()["event_id"]
            kind, data = event_of((await client.get(f"/gradio_api/call/refuse/{event}")).text)
            assert kind == "error"
            assert data == answer.json()
            event = (await client.post("/gradio_api/call/fail", json={"data": []})).json()["event_id"]
            kind, data = event_of((await client.get(f"/gradio_api/call/fail/{event}")).text)
            assert (kind, data) == ("error", {"error": "internal error; the log has it"})

    asyncio.run(steps())
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 422, "not JSON"),
        (b"\x89PNG", 422, "not JSON"),
        (b"[]", 422, '{"data": [...]}'),
        (b'{"data": 5}', 422, '{"data": [...]}'),
        (b'{"data": []}', 400, "first"),
        (b'{"data": [1, 2, 3]}', 400, "add is not called like this"),
        (b'{"data": ["' + bytes([97]) * QUEUED_BYTES + b'"]}', 413, f"{QUEUED_BYTES:,} bytes"),
    ],
)
@pytest.mark.parametrize("route", ["run", "call"])
def test_bad_calls_say_what_is_wrong(route: str, body: bytes, status: int, says: str) -> None:
    async def steps() -> None:
        async with Functions().client() as client:
            answer = await client.post(f"/gradio_api/{route}/add", content=body)
            assert answer.status_code == status
            assert says in answer.json()["error"]

    asyncio.run(steps())


def test_all_else_is_for_the_app_behind() -> None:
    async def steps() -> None:
        async with Functions().client() as client:
            for path in (
                "/",
                "/gradio_api/run/predict",
                "/gradio_api/call/v2/add",
                "/gradio_api/run/add/x/y",
                "/run/add",
            ):
                assert (await client.post(path, json={"data": []})).status_code == 418, path
            answer = await client.get("/gradio_api/run/add")
            assert answer.status_code == 405
            assert "POST" in answer.headers["allow"]

    asyncio.run(steps())


def test_running_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_calls, "RUNNING", 3)

    async def steps() -> None:
        functions = Functions()
        async with functions.client() as client:
            events = [
                (await client.post("/gradio_api/call/wait", json={"data": []})).json()["event_id"] for _ in range(3)
            ]
            refused = await client.post("/gradio_api/call/wait", json={"data": []})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "at most 3 calls" in refused.json()["error"]
            functions.gate.set()
            for event in events:
                assert event_of((await client.get(f"/gradio_api/call/wait/{event}")).text) == ("complete", ["done"])
            assert (await client.post("/gradio_api/call/wait", json={"data": []})).status_code == 200

    asyncio.run(steps())


def test_the_oldest_results_that_nobody_reads_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_calls, "RUNNING", 3)
    monkeypatch.setattr(direct_calls, "UNREAD", 5)

    async def steps() -> None:
        async with Functions().client() as client:
            events = []
            for number in range(12):
                answer = await client.post("/gradio_api/call/add", json={"data": [number]})
                events.append(answer.json()["event_id"])
                await asyncio.sleep(0)  # the call runs
            statuses = [(await client.get(f"/gradio_api/call/add/{event}")).status_code for event in events]
            assert statuses == [404] * 7 + [200] * 5

    asyncio.run(steps())


def test_a_server_s_functions_answer_as_through_gradio(tiny: Callable[..., Any], tmp_path: Path) -> None:
    """Upload a picture, and classify it in all three ways."""
    tiny(tmp_path / "improved_resnet18.cifar10").write()
    picture = Path(direct_calls.__file__).parents[1] / "examples" / "picture-frog.png"

    async def steps() -> None:
        app = create_app(Settings(models=tmp_path))
        async with app.router.lifespan_context(app), client_of(app) as client:
            (path,) = (await client.post("/gradio_api/upload", files={"files": picture.read_bytes()})).json()
            await asyncio.to_thread(app.state.engine.repository.settled.wait)
            call = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ""]}
            direct = (await client.post("/gradio_api/run/classify_picture", json=call)).json()["data"]
            through = (await client.post("/gradio_api/api/classify_picture", json=call)).json()["data"]
            event = (await client.post("/gradio_api/call/classify_picture", json=call)).json()["event_id"]
            kind, called = event_of((await client.get(f"/gradio_api/call/classify_picture/{event}")).text)
            assert direct == through == called
            assert kind == "complete"
            assert direct[0]["model"] == "improved_resnet18.cifar10"
            assert len(direct[0]["predictions"]) == 10
            for wrong in (
                None,
                5,
                {},
                {"path": 5},
                {"path": "/etc/passwd"},
                {"path": "../../x"},
                {"url": "http://x/y"},
            ):
                answer = await client.post("/gradio_api/run/classify_picture", json={"data": [wrong]})
                assert answer.status_code == 400, answer.text

    asyncio.run(steps())
