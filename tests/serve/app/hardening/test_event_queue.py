"""What Gradio keeps for clients that never come back for it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from serve.api import create_app
from serve.app.hardening import event_queue
from serve.app.hardening.event_queue import NAME, UNREAD, WAITING, BoundedQueue, Sessions, _Mailbox, bound
from serve.app.hardening.gradio_internals import UPLOADS, _UploadProgress, mounted_application
from serve.app.hardening.streams import Streams
from serve.settings import Settings

Steps = Callable[[SimpleNamespace], Awaitable[None]]


def work(steps: Steps, make: Callable[[], FastAPI], *, started: bool = False) -> None:
    """Run `steps` with a client of an app; if it is not started, its queue takes calls but runs none."""

    async def run() -> None:
        app = make()
        gradio_app = mounted_application(app)
        page = gradio_app.get_blocks()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=60) as client:
            served = SimpleNamespace(
                app=app, client=client, page=page, sessions=gradio_app.state_holder, queue=page._queue
            )
            async with app.router.lifespan_context(app) if started else nullcontext():
                await steps(served)

    asyncio.run(run())


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], FastAPI]:
    return lambda: create_app(Settings(models=tmp_path))


async def finished(served: SimpleNamespace, answer: httpx.Response) -> str:
    """Wait until the call that `answer` has accepted has run; return its name."""
    event: str = answer.json()["event_id"]
    for task in tuple(served.queue._asyncio_tasks):
        await task
    while event in served.queue.event_ids_to_events:  # noqa: ASYNC110 - the queue has just begun
        await asyncio.sleep(0)
    return event


def models_call(page: gr.Blocks, session: str) -> dict[str, Any]:
    (number,) = (number for number, function in page.fns.items() if function.api_name == "models")
    return {"data": [], "fn_index": number, "session_hash": session}


def test_a_full_queue_refuses_calls(make: Callable[[], FastAPI]) -> None:
    async def steps(served: SimpleNamespace) -> None:
        for count in range(WAITING):
            answer = await served.client.post(
                "/gradio_api/queue/join", json=models_call(served.page, f"session {count}")
            )
            assert answer.status_code == 200
        for path, body in (("queue/join", models_call(served.page, "another")), ("call/v2/models", {})):
            answer = await served.client.post(f"/gradio_api/{path}", json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"] == f"the queue is full: at most {WAITING} calls may wait"
        assert len(served.queue) == WAITING

    work(steps, make)


def test_one_session_cannot_fill_the_queue(make: Callable[[], FastAPI]) -> None:
    async def steps(served: SimpleNamespace) -> None:
        statuses = []
        for session in ["greedy"] * (UNREAD + 1) + ["modest"]:
            answer = await served.client.post("/gradio_api/queue/join", json=models_call(served.page, session))
            statuses.append(answer.status_code)
        assert statuses == [200] * UNREAD + [503, 200]

    work(steps, make)


def test_sessions_are_bounded_and_those_of_open_pages_stay(
    make: Callable[[], FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_queue, "SESSIONS", 3)

    async def steps(served: SimpleNamespace) -> None:
        served.app.state.streams.sessions["visitor"] += 1
        for session in ["visitor", *map(str, range(10))]:
            body = models_call(served.page, session)
            assert (await served.client.post("/gradio_api/api/models", json=body)).status_code == 200
        assert list(served.sessions.session_data) == list(served.sessions.time_last_used) == ["visitor", "8", "9"]

    work(steps, make)


def test_a_session_s_name_has_a_limit(make: Callable[[], FastAPI]) -> None:
    async def steps(served: SimpleNamespace) -> None:
        for path in ("api/models", "queue/join"):
            for length, status in ((NAME, 200), (NAME + 1, 400)):
                body = models_call(served.page, "x" * length)
                answer = await served.client.post(f"/gradio_api/{path}", json=body)
                assert answer.status_code == status, answer.text
        assert list(served.sessions.session_data) == ["x" * NAME]

    work(steps, make)


def test_results_that_nobody_reads_are_forgotten(make: Callable[[], FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_queue, "UNREAD_SESSIONS", 3)

    async def steps(served: SimpleNamespace) -> None:
        for _ in range(10):
            answer = await served.client.post("/gradio_api/call/v2/models", json={})
            last = await finished(served, answer)
        queue = served.queue
        assert len(queue.pending_event_ids_session) == len(queue.pending_messages_per_session) == 3
        # The newest can still be read, and then nothing of it is kept.
        assert "event: complete" in (await served.client.get(f"/gradio_api/call/v2/models/{last}")).text
        assert not queue.pending_event_ids_session[last]
        assert not queue.event_analytics
        assert not served.sessions.session_data  # calls without a session leave none

    work(steps, make, started=True)


def test_the_oldest_results_go_when_there_are_too_many(
    make: Callable[[], FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_queue, "UNREAD_RESULTS", 4)

    async def steps(served: SimpleNamespace) -> None:
        for session in ["a", "a", "a", "b", "c", "c"]:
            answer = await served.client.post("/gradio_api/queue/join", json=models_call(served.page, session))
            await finished(served, answer)
        assert {name: len(events) for name, events in served.queue.pending_event_ids_session.items()} == {
            "b": 1,
            "c": 2,
        }

    work(steps, make, started=True)


def test_a_client_that_left_its_stream_can_call_again(make: Callable[[], FastAPI]) -> None:
    async def steps(served: SimpleNamespace) -> None:
        statuses = []
        for _ in range(2):
            for _ in range(UNREAD):
                answer = await served.client.post("/gradio_api/queue/join", json=models_call(served.page, "a"))
                statuses.append(answer.status_code)
                await finished(served, answer)
            # What Gradio does when it notices that the client is gone.
            del served.queue.pending_messages_per_session["a"]
            await served.queue.clean_events(session_hash="a")
        assert statuses == [200] * 2 * UNREAD

    work(steps, make, started=True)


def test_a_mailbox_that_nobody_empties_is_bounded() -> None:
    async def fill() -> None:
        mailbox = _Mailbox(2)
        for _ in range(3):
            mailbox.put_nowait(None)  # type: ignore[arg-type]
            await mailbox.put(None)  # type: ignore[arg-type]
        assert mailbox.qsize() == 2

    asyncio.run(fill())


def test_calls_run_at_once_and_start_without_delay() -> None:
    """Each call waits for the other, and the queue would sleep for ever if it did."""
    meeting = asyncio.Barrier(2)

    async def meet() -> str:
        await asyncio.wait_for(meeting.wait(), 30)
        return "met"

    def make() -> FastAPI:
        with gr.Blocks() as page:
            gr.Button().click(meet, None, gr.Textbox(), api_name="meet")
        app = FastAPI()
        gr.mount_gradio_app(app, page, path="/")
        bound(page, mounted_application(app), Streams())
        page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = 1e6
        return app

    async def steps(served: SimpleNamespace) -> None:
        async def call() -> str:
            event = (await served.client.post("/gradio_api/call/meet", json={"data": []})).json()["event_id"]
            return str((await served.client.get(f"/gradio_api/call/meet/{event}")).text)

        for answer in await asyncio.gather(call(), call()):
            assert 'event: complete\ndata: ["met"]' in answer

    work(steps, make, started=True)


def test_the_app_uses_the_bounds(make: Callable[[], FastAPI]) -> None:
    async def steps(served: SimpleNamespace) -> None:
        assert isinstance(served.queue, BoundedQueue)
        assert isinstance(served.sessions, Sessions)
        assert served.page.state_holder is served.sessions
        assert isinstance(gr.routes.file_upload_statuses, _UploadProgress)

    work(steps, make)


def test_the_progress_of_uploads_that_never_come_is_forgotten() -> None:
    progress = _UploadProgress()

    async def ask(name: str) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(progress.is_tracked(name), 0)

    async def steps() -> None:
        for number in range(2 * UPLOADS):
            progress.track(f"sent {number}")
            await ask(f"asked {number}")
        assert await progress.is_tracked(f"sent {2 * UPLOADS - 1}")

    asyncio.run(steps())
    assert len(progress._statuses) == len(progress._signals) == UPLOADS


def test_a_server_that_is_not_ready_says_so(make: Callable[[], FastAPI], encode: Any) -> None:
    async def steps(served: SimpleNamespace) -> None:
        image = encode(Image.new("RGB", (8, 8)))
        (path,) = (await served.client.post("/gradio_api/upload", files={"files": ("a.png", image)})).json()
        answer = await served.client.post("/gradio_api/run/classify_picture", json={"data": [{"path": path}, ""]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"] == "no model for pictures is ready"

    work(steps, make)
