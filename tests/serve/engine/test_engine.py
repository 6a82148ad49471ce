"""The engine alone: limits, deadlines, never another's result, and how it starts and closes."""

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import Gate, run

import serve.engine.batching
import serve.engine.repository
from serve.engine.batching import Engine
from serve.engine.models import Model
from serve.errors import ApiError, BadRequest, DeadlineExceeded, ModelNotFound, ModelNotReady, Overloaded
from serve.settings import Settings

pytestmark = pytest.mark.xdist_group("serve")


def test_every_image_gets_its_own_scores(two: list[Any], tmp_path: Any) -> None:
    engine = Engine(Settings(models=tmp_path))

    async def work() -> None:
        for model in two:
            for count in (1, 2, 31, 32, 33, 100):
                images = model.images(count, seed=count)
                result = await engine.infer(model.name, images)
                np.testing.assert_array_equal(result.logits, model.logits(images))
                np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)

    run(engine, work)


def test_a_full_queue_refuses_at_once(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, max_queue=8, max_images=8))
    model = two[0]

    async def work() -> None:
        gate = Gate(monkeypatch)
        tasks = [asyncio.create_task(engine.infer(model.name, model.images(1)))]
        await asyncio.to_thread(gate.entered.wait)
        tasks += [asyncio.create_task(engine.infer(model.name, model.images(4, seed))) for seed in (1, 2)]
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(Overloaded) as caught:
            await engine.infer(model.name, model.images(1))
        assert time.monotonic() - began < 1
        assert caught.value.status == 503
        assert int(caught.value.headers["retry-after"]) >= 1
        gate.open.set()
        await asyncio.gather(*tasks)
        await engine.infer(model.name, model.images(8))

    run(engine, work)


def test_late_and_cancelled_work_is_never_run(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, max_queue=8, max_images=8))
    model = two[0]

    async def work() -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(engine.infer(model.name, model.images(1)))
        await asyncio.to_thread(gate.entered.wait)
        cancelled = asyncio.create_task(engine.infer(model.name, model.images(3)))
        late = asyncio.create_task(engine.infer(model.name, model.images(5), timeout=0.05))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(DeadlineExceeded):
            await late
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        # Their places are free again.
        rest = asyncio.create_task(engine.infer(model.name, model.images(8)))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, rest)
        assert gate.sizes == [1, 8]

    run(engine, work)


def test_a_result_that_comes_too_late_is_an_error(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(models=tmp_path, timeout=0.1))

    async def work() -> None:
        gate = Gate(monkeypatch)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await engine.infer("a", two[0].images(1))
        assert time.monotonic() - began < 5
        with pytest.raises(DeadlineExceeded):
            await engine.infer("a", two[0].images(1), timeout=0)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):  # nobody waits longer than the server allows
            await engine.infer("a", two[0].images(1), timeout=60)
        assert time.monotonic() - began < 5
        gate.open.set()

    run(engine, work)


def test_one_bad_image_fails_alone(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tmp_path / "fragile").write(fragile=True)
    engine = Engine(Settings(models=tmp_path))
    images = model.images(9)
    images[5, 0, 0, 0] = 255

    async def work() -> None:
        gate = Gate(monkeypatch)
        tasks = [asyncio.create_task(engine.infer(model.name, image[None])) for image in images]
        await asyncio.sleep(0.05)
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[5], ApiError)
        assert results[5].status == 500
        for index in (0, 1, 2, 3, 4, 6, 7, 8):
            np.testing.assert_array_equal(results[index].logits, model.logits(images[index : index + 1]))

    run(engine, work)


def test_wrong_images_and_names_are_refused(two: list[Any], tmp_path: Any) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    engine = Engine(Settings(models=tmp_path, max_images=4))

    async def work() -> None:
        good = two[0].images(2)
        for images in (good[:0], good[0], good.astype(np.float32), good[:, 1:], two[0].images(5)):
            with pytest.raises(BadRequest):
                await engine.infer("a", images)
        with pytest.raises(ModelNotFound, match="this server has: a, b, broken"):
            await engine.infer("../a", good)
        with pytest.raises(ModelNotReady, match="does not load") as caught:
            await engine.infer("broken", good)
        assert int(caught.value.headers["retry-after"]) >= 1

    run(engine, work)


def test_closing_answers_everybody(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path))

    async def work() -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(engine.infer("a", two[0].images(1)))
        await asyncio.to_thread(gate.entered.wait)
        waiting = asyncio.create_task(engine.infer("a", two[0].images(1)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        with pytest.raises(Overloaded, match="shutting down"):
            await waiting
        with pytest.raises(Overloaded, match="shutting down"):
            await engine.infer("a", two[0].images(1))
        gate.open.set()
        await first
        await closing

    run(engine, work)


def test_it_starts_again_after_closing(two: list[Any], tmp_path: Any) -> None:
    engine = Engine(Settings(models=tmp_path))

    async def work() -> None:
        for model in two:
            images = model.images(33)
            result = await engine.infer(model.name, images)
            np.testing.assert_array_equal(result.logits, model.logits(images))

    run(engine, work)
    two[0].seed = 5
    two[0].write()  # what it finds in the folder then
    run(engine, work)


def test_it_says_why_it_is_not_ready(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "a").write()
    go, real = threading.Event(), serve.engine.repository.load

    def held(*arguments: Any) -> Model:
        assert go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(serve.engine.repository, "load", held)
    engine = Engine(Settings(models=tmp_path))
    engine.start()
    assert not engine.wait(0)
    assert engine.unready == "loading models"
    go.set()
    assert engine.wait(60)
    assert engine.unready == ""
    engine.repository.unload("a")
    assert engine.unready == "no model is loaded"
    engine.repository.load("a")
    assert engine.unready == ""
    engine.close()
    assert engine.unready == "shutting down"


def test_loading_begun_before_closing_does_not_make_it_ready(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path / "a").write()
    go, real = [threading.Event(), threading.Event()], serve.engine.repository.load
    calls, begun = itertools.count(), threading.Event()

    def held(*arguments: Any) -> Model:
        call = next(calls)
        begun.set()
        assert go[call].wait(60)
        return real(*arguments)

    monkeypatch.setattr(serve.engine.repository, "load", held)
    engine = Engine(Settings(models=tmp_path))
    engine.start()
    first = engine.repository.settled
    assert begun.wait(60)  # else the second loading may come first
    engine.close()
    engine.start()
    go[0].set()
    assert first.wait(60)
    assert not engine.wait(0.2)
    assert engine.unready == "loading models"
    go[1].set()
    assert engine.wait(60)
    assert engine.unready == ""
    engine.close()


def test_a_failure_that_nobody_expects_keeps_neither_the_others_nor_who_waits(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = serve.engine.repository.load

    def load(folder: Path, settings: Settings) -> Model:
        if folder.name == "a":
            raise KeyError("surprise")
        return real(folder, settings)

    monkeypatch.setattr(serve.engine.repository, "load", load)
    # One loader for both.
    monkeypatch.setattr(serve.engine.repository, "usable_cores", lambda: 1)
    engine = Engine(Settings(models=tmp_path))
    engine.start()
    assert engine.wait(60)
    assert [(entry.name, entry.state) for entry in engine.repository.index()] == [("a", "UNAVAILABLE"), ("b", "READY")]
    assert "surprise" in engine.repository.index()[0].reason
    assert "Traceback" in caplog.text
    engine.close()


def test_without_work_the_processor_rests(two: list[Any], tmp_path: Any) -> None:
    with Engine(Settings(models=tmp_path)) as engine:
        asyncio.run(engine.infer("a", two[0].images(32)))
        time.sleep(0.2)
        began = time.process_time()
        time.sleep(1)
        assert time.process_time() - began < 0.02
