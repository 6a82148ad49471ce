"""Study files in the engine: loaded when they are needed, few at a time, and never served as models."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from engines import Gate
from studies import write_study
from watching import eventually

from serve.engine import studies
from serve.engine.batching import Engine
from serve.engine.models import ModelInfo, find
from serve.errors import BadRequest, DeadlineExceeded, ModelNotFound, NoStudy, Overloaded
from serve.settings import Settings


@pytest.fixture
def three(tiny: Any, tmp_path: Path) -> list[Any]:
    """Models with study files."""
    found = [tiny(tmp_path / name).write() for name in ("a", "b", "c")]
    for model in found:
        write_study(model)
    return found


def within(folder: Path, work: Callable[[Engine], Any], **settings: Any) -> Any:
    """Run `work`, a coroutine function, in an engine's event loop."""
    with Engine(Settings(models=folder, **settings)) as engine:
        return asyncio.run(work(engine))


def test_it_returns_the_maps_and_what_is_known_of_them(three: list[Any], tmp_path: Path) -> None:
    image = three[0].images(1)[0]

    async def work(engine: Engine) -> None:
        assert engine.studies.loaded == []
        look = await engine.look("a", image)
        assert engine.studies.loaded == ["a"]
        grey = image.astype(np.float32).mean(-1)
        np.testing.assert_allclose(look.maps["first"][0], grey, rtol=1e-5)
        assert {name: found.shape for name, found in look.maps.items()} == {
            "first": (2, 32, 32),
            "middle": (2, 8, 8),
            "last": (2, 2, 2),
        }
        assert look.class_maps is not None
        assert look.class_maps.shape == (10, 2, 2)
        assert [stage.name for stage in look.stages] == ["first", "middle", "last"]
        found = look.stages[0].filter(1)
        assert found is not None
        assert (found.inputs, found.shown, found.weights.tolist()) == (3, [0, 1, 2], [[[127]], [[0]], [[-127]]])
        assert look.stages[1].filter(0) is None
        assert look.stages[2].rows == [(0, 15), (16, 31)]
        assert look.stages[2].classes == [(0, 9), (9, 0)]

    within(tmp_path, work)


def test_it_is_no_model(three: list[Any], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.study.onnx").write_bytes((tmp_path / "a" / "model.study.onnx").read_bytes())
    assert find(tmp_path) == ["a", "b", "c"]

    async def work(engine: Engine) -> Engine:
        assert sorted(engine.models()) == ["a", "b", "c"]
        assert [entry.name for entry in engine.repository.index()] == ["a", "b", "c"]
        await engine.look("a", three[0].images(1)[0])
        assert sorted(engine.models()) == ["a", "b", "c"]
        for name in ("a.study", "alone"):
            with pytest.raises(ModelNotFound):
                await engine.look(name, three[0].images(1)[0])
        assert engine.repository.get("a").statistics.render()["inference_count"] == 0
        return engine

    ended = within(tmp_path, work)  # metrics are counted after a result is delivered
    assert 'serve_run_seconds_count{model="a.study"} 1.0' in ended.metrics.render()[0].decode()


def test_few_are_in_memory_and_none_once_nobody_looks(
    three: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = three[0].images(1)[0]

    async def work(engine: Engine) -> None:
        for name in ("a", "b", "a", "c"):
            await engine.look(name, image)
        assert engine.studies.loaded == ["a", "c"]
        monkeypatch.setattr(studies, "IDLE", 0.0)
        engine.studies._close_idle(asyncio.get_running_loop())
        assert engine.studies.loaded == []
        monkeypatch.setattr(studies, "IDLE", 0.01)
        await engine.look("b", image)  # starts the clock, which closes it by itself
        assert await asyncio.to_thread(eventually, lambda: engine.studies.loaded == [])

    within(tmp_path, work)


def test_it_is_loaded_once_for_all_who_wait(three: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = studies.load

    def counted(folder: Path, info: ModelInfo) -> studies.Study:
        loads.append(info.name)
        return load(folder, info)

    monkeypatch.setattr(studies, "load", counted)

    async def work(engine: Engine) -> None:
        await asyncio.gather(*(engine.look(name, three[0].images(1)[0]) for name in "aabab"))
        assert sorted(loads) == ["a", "b"]
        os.utime(tmp_path / "a" / "model.study.onnx", (1, 1))  # built again
        await engine.look("a", three[0].images(1)[0])
        assert sorted(loads) == ["a", "a", "b"]

    within(tmp_path, work)


def test_without_a_file_the_message_says_how_to_build_it(three: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a" / "model.study.onnx").unlink()

    async def work(engine: Engine) -> None:
        with pytest.raises(
            NoStudy, match=rf"no model.study.onnx of a yet; python train/export.py --missing {tmp_path.name}/a"
        ):
            await engine.look("a", three[0].images(1)[0])
        assert not await engine.studies.has_class_maps(engine.models()["a"])
        await engine.infer("a", three[0].images(1))  # all else works

    within(tmp_path, work)


def test_what_cannot_be_used_is_told(three: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a" / "model.study.onnx").write_bytes(b"half")
    write_study(three[1], stages="[]", reason="the network tells no stages")
    write_study(three[2], safetensors_sha256="1" * 64)

    async def work(engine: Engine) -> None:
        image = three[0].images(1)[0]
        for name, message in (
            ("a", "the study file of a does not load: "),
            ("b", "nothing of b can be shown: the network tells no stages"),
            ("c", "the study file of c is of other weights; "),
        ):
            with pytest.raises(NoStudy, match=message) as caught:
                await engine.look(name, image)
            assert str(tmp_path) not in caught.value.message
        assert engine.studies.loaded == []
        for stages in ("{}", "[{}]", '[{"name": "first"}]', "no JSON"):
            write_study(three[0], stages=stages)
            with pytest.raises(NoStudy, match=r"does not load|can be shown"):
                await engine.look("a", image)

    within(tmp_path, work)


def test_class_maps_are_known_without_loading_the_file_again(three: list[Any], tmp_path: Path) -> None:
    write_study(three[1], class_maps=False)

    async def work(engine: Engine) -> None:
        infos = engine.models()
        assert [await engine.studies.has_class_maps(infos[name]) for name in "abc"] == [True, False, True]
        assert engine.studies.loaded == ["b", "c"]
        assert await engine.studies.has_class_maps(infos["a"])
        assert engine.studies.loaded == ["b", "c"]
        assert (await engine.look("b", three[1].images(1)[0])).class_maps is None

    within(tmp_path, work)


def test_looks_wait_in_the_queue_of_all(three: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    gate.open.set()  # while the models are warmed

    async def work(engine: Engine) -> None:
        image = three[0].images(1)[0]
        await engine.studies.get(engine.models()["a"])
        gate.open.clear()
        gate.entered.clear()
        running = asyncio.ensure_future(engine.infer("b", image[None]))
        await asyncio.to_thread(gate.entered.wait, 20)
        waiting = [asyncio.ensure_future(engine.look("a", image)) for _ in range(3)]
        assert await asyncio.to_thread(eventually, lambda: engine._queues.images == 3)
        with pytest.raises(Overloaded):
            await engine.look("a", image)
        with pytest.raises(Overloaded):
            await engine.infer("b", image[None])
        gate.open.set()
        assert len((await running).logits) == 1
        assert [look.maps["last"].shape for look in await asyncio.gather(*waiting)] == [(2, 2, 2)] * 3

    within(tmp_path, work, threads=1, max_queue=3)


def test_a_file_that_does_not_load_in_time_is_told(
    three: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(DeadlineExceeded):
            await engine.look("a", three[0].images(1)[0])

    gate = Event()
    load = studies.load
    monkeypatch.setattr(studies, "load", lambda *arguments: (gate.wait(20), load(*arguments))[1])
    with Engine(Settings(models=tmp_path, timeout=0.2)) as engine:
        asyncio.run(work(engine))
        gate.set()


def test_an_image_of_another_size_is_refused(three: list[Any], tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(BadRequest, match=r"a\.study takes uint8"):
            await engine.look("a", np.zeros((28, 28, 1), np.uint8))

    within(tmp_path, work)


def test_it_can_be_used_again_after_the_engine_was_closed(three: list[Any], tmp_path: Path) -> None:
    engine = Engine(Settings(models=tmp_path))
    for _ in range(2):
        with engine:
            asyncio.run(engine.look("a", three[0].images(1)[0]))
        assert engine.studies.loaded == []


def test_the_weights_of_filters_are_bytes() -> None:
    entry = {"inputs": 8, "shown": [5, 2], "size": [2, 1], "weights": base64.b64encode(bytes([1, 2, 255, 0])).decode()}
    stage = studies.Stage("first", "conv", (1, 1, 1), [(0, 0)], [(0, 0)], [], json.loads(json.dumps([entry])))
    found = stage.filter(0)
    assert found is not None
    assert found.weights.tolist() == [[[1], [2]], [[-1], [0]]]
