"""The handlers alone, around what stands in for the rest: time that is left, and who is let in."""

import asyncio
import json
from collections.abc import Callable
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
from serve.images.decoder import Decoder
from serve.routes.classify import Classify
from serve.routes.v2 import V2
from serve.settings import Settings

INFO = ModelInfo("model", ["a", "b"], (2, 2, 1), None, "fp32", "cpu", None, {})
IMAGE = {"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0] * 4}


class Bodies:
    """Each takes a while to come."""

    def __init__(self, body: bytes, seconds: float = 0.0) -> None:
        self.body = body
        self.seconds = seconds

    def read(self, request: Request) -> "Bodies":
        return self

    async def __aenter__(self) -> bytes:
        await asyncio.sleep(self.seconds)
        return self.body

    async def __aexit__(self, *error: object) -> None:
        pass


class Granted(Engine):
    """Notes the time that each run is given."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.seconds: list[float | None] = []
        self.repository.get = lambda name: type("Loaded", (), {"info": INFO})  # type: ignore[assignment]

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
def test_what_a_body_takes_is_no_longer_there_for_the_run(asked: int | None, most: float) -> None:
    engine = Granted(Settings(timeout=10.0))

    async def decoder(data: bytes, shape: tuple[int, ...], *, timeout: float) -> Any:
        engine.seconds.append(timeout)
        await asyncio.sleep(0.1)
        return np.zeros((1, *shape), np.uint8)

    body = json.dumps({"inputs": [IMAGE], "parameters": {} if asked is None else {"timeout": asked}}).encode()
    bodies: Any = Bodies(body, 0.1)
    as_decoder: Any = decoder
    asyncio.run(V2(engine, bodies, "1").infer(request("/v2/models/model/infer", model="model")))
    asyncio.run(Classify(engine, bodies, as_decoder).post(request("/classify/model", model="model")))
    run, decoding, classified = engine.seconds
    assert run is not None
    assert decoding is not None
    assert classified is not None
    assert most - 5 < run < most - 0.09
    assert 5 < decoding < 10 - 0.09
    assert 5 < classified < 10 - 0.19


@pytest.mark.parametrize(("only", "names"), [({}, ["broken", "model"]), ({"ready": True}, ["model"])])
def test_the_index_tells_of_the_ready_models_alone_where_that_is_asked(
    tiny: Any, tmp_path: Any, only: dict[str, bool], names: list[str]
) -> None:
    tiny(tmp_path / "model").write()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    bodies: Any = Bodies(json.dumps(only).encode())
    with Engine(Settings(models=tmp_path, threads=1)) as engine:
        answer = asyncio.run(V2(engine, bodies, "1").index(request("/v2/repository/index")))
    assert [entry["name"] for entry in json.loads(bytes(answer.body))] == names


def test_before_its_models_are_there_a_server_says_when_to_ask_again(tmp_path: Any) -> None:
    bodies: Any = Bodies(b"")
    with pytest.raises(ApiError, match="not ready: loading models") as caught:
        asyncio.run(V2(Engine(Settings(models=tmp_path)), bodies, "1").ready(request("/v2/health/ready")))
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})


@pytest.mark.parametrize(("offered", "let_in"), [(b"Bearer secret", True), (b"Bearer other", False), (b"", False)])
def test_websockets_need_the_key_too(offered: bytes, let_in: bool) -> None:
    """Ours takes none, but other hosts may serve the application."""
    came, said = [], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        came.append(scope["type"])

    async def send(message: Any) -> None:
        said.append(message)

    receive: Any = None
    scope = {"type": "websocket", "path": "/", "headers": [(b"authorization", offered)]}
    asyncio.run(Gate(application, Engine(Settings(api_key="secret")))(scope, receive, send))
    assert came == ["websocket"] * let_in
    assert said == ([] if let_in else [{"type": "websocket.close", "code": 1008}])


def test_who_is_cut_off_at_the_end_is_told_to_come_again() -> None:
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


@pytest.mark.parametrize("fails", [False, True])
def test_pictures_that_are_decoded_wait_no_longer(
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
