"""The handlers alone, with stand-ins for the rest: deadlines, and who is let in."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from serve.engine.batching import Engine
from serve.engine.metrics import Metrics
from serve.engine.models import ModelInfo
from serve.engine.queues import Result
from serve.errors import ApiError, BadImage
from serve.http.gate import RECORD, Gate, Record
from serve.http.responses import error_response
from serve.images.decoder import Decoder
from serve.routes.classify import Classify
from serve.routes.data_plane import DataPlane
from serve.routes.v2 import V2
from serve.settings import Settings

INFO = ModelInfo("model", ["a", "b"], (2, 2, 1), None, "fp32", "cpu", None, {})
IMAGE = {"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0] * 4}


NO_DECODER: Any = None


class Clock:
    """Stands still unless it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Bodies:
    """Each body arrives 0.1 s after it is asked for, on a clock of the test's own."""

    def __init__(self, body: bytes, clock: Clock | None = None) -> None:
        self.body = body
        self.clock = clock or Clock()

    def read(self, request: Request) -> "Bodies":
        return self

    async def __aenter__(self) -> bytes:
        self.clock.now += 0.1
        return self.body

    async def __aexit__(self, *error: object) -> None:
        pass


class Granted(Engine):
    """Records the time that each run is given."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.seconds: list[float | None] = []
        self.repository.get = lambda name: SimpleNamespace(info=INFO)  # type: ignore[assignment,return-value]

    async def infer(self, model: str, images: Any, *, timeout: float | None = None) -> Result:
        self.seconds.append(timeout)
        scores = np.zeros((len(images), 2), np.float32)
        return Result(scores, scores, INFO)


def request(path: str, **parameters: str) -> Request:
    async def nothing_more() -> Any:
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    return Request({**scope, "path_params": parameters, RECORD: Record("id")}, nothing_more)


@pytest.mark.parametrize(("asked", "most"), [(None, 10.0), (5_000_000, 5.0), (50_000_000, 10.0)])
def test_the_time_a_body_takes_is_not_left_for_the_run(
    asked: int | None, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for name in ("v2", "data_plane", "classify", "files"):
        monkeypatch.setattr(f"serve.routes.{name}.time", clock)
    engine = Granted(Settings(timeout=10.0))

    async def decoder(data: bytes, shape: tuple[int, ...], *, timeout: float) -> Any:
        engine.seconds.append(timeout)
        clock.now += 0.1
        return np.zeros((1, *shape), np.uint8)

    body = json.dumps({"inputs": [IMAGE], "parameters": {} if asked is None else {"timeout": asked}}).encode()
    bodies: Any = Bodies(body, clock)
    as_decoder: Any = decoder
    asyncio.run(V2(DataPlane(engine, NO_DECODER, "1"), bodies).infer(request("/v2/models/model/infer", model="model")))
    asyncio.run(Classify(engine, bodies, as_decoder).post(request("/classify/model", model="model")))
    run, decoding, classified = engine.seconds
    assert run == pytest.approx(most - 0.1)
    assert decoding == pytest.approx(10 - 0.1)
    assert classified == pytest.approx(10 - 0.2)


@pytest.mark.parametrize(("only", "names"), [({}, ["broken", "model"]), ({"ready": True}, ["model"])])
def test_the_index_can_list_the_ready_models_alone(
    tiny: Any, tmp_path: Any, only: dict[str, bool], names: list[str]
) -> None:
    tiny(tmp_path / "model").write()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    bodies: Any = Bodies(json.dumps(only).encode())
    with Engine(Settings(models=tmp_path, threads=1)) as engine:
        answer = asyncio.run(V2(DataPlane(engine, NO_DECODER, "1"), bodies).index(request("/v2/repository/index")))
    assert [entry["name"] for entry in json.loads(bytes(answer.body))] == names


def test_a_server_without_models_yet_says_when_to_try_again(tmp_path: Any) -> None:
    bodies: Any = Bodies(b"")
    with pytest.raises(ApiError, match="not ready: loading models") as caught:
        asyncio.run(
            V2(DataPlane(Engine(Settings(models=tmp_path)), NO_DECODER, "1"), bodies).ready(request("/v2/health/ready"))
        )
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})


def test_a_request_cancelled_by_the_shutdown_is_told_to_try_again() -> None:
    said = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def send(message: Any) -> None:
        said.append(message)

    engine = Engine(Settings())
    engine.draining = True
    receive: Any = None
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Gate(application, engine)(scope, receive, send))
    assert said[0]["status"] == 503
    assert {(b"retry-after", b"1"), (b"connection", b"close")} <= set(said[0]["headers"])


def test_refusals_of_a_server_that_shuts_down_are_counted_apart() -> None:
    engine = Engine(Settings())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await error_response(503, "no")(scope, receive, send)

    async def send(message: Any) -> None:
        pass

    receive: Any = None
    for engine.draining in (False, True):
        asyncio.run(
            Gate(application, engine)({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
        )
    text = engine.metrics.render()[0].decode()
    for outcome in ("overloaded", "draining"):
        assert f'serve_requests_total{{model="",outcome="{outcome}",route="other"}} 1.0' in text


@pytest.mark.parametrize("fails", [False, True])
def test_decoded_images_no_longer_count_as_waiting(
    fails: bool, monkeypatch: pytest.MonkeyPatch, encode: Callable[..., bytes]
) -> None:
    monkeypatch.setattr("serve.images.decoder.WAITING", 2)
    data = encode(np.zeros((8, 8, 3), np.uint8))

    def make(data: bytes) -> int:
        if fails:
            raise BadImage(400, "broken")
        return len(data)

    async def work() -> list[Any]:
        decoder = Decoder(Settings(), Metrics())
        found = [await asyncio.gather(decoder.beside(data, make, timeout=60), return_exceptions=True) for _ in range(5)]
        decoder.close()
        return [outcome for (outcome,) in found]

    assert {type(outcome) for outcome in asyncio.run(work())} == {BadImage if fails else int}
