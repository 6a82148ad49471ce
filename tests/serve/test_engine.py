"""The engine alone: batches, limits, deadlines, and never another's result."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serve.engine
import serve.repository
from serve.engine import Engine
from serve.errors import ApiError, BadRequest, DeadlineExceeded, ModelNotFound, ModelNotReady, Overloaded
from serve.models import Model
from serve.settings import Settings


@pytest.fixture
def two(tiny: Any, tmp_path: Any) -> list[Any]:
    """A model of each shape."""
    return [tiny(tmp_path / "a").write(), tiny(tmp_path / "b", shape=(28, 28, 1), seed=1).write()]


def run(engine: Engine, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with engine:
        return asyncio.run(work())


class Gate:
    """Holds every run until it is opened, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        real = Model.run

        def held(model: Model, images: np.ndarray) -> Any:
            self.entered.set()
            assert self.open.wait(20)
            self.sizes.append(len(images))
            return real(model, images)

        monkeypatch.setattr(Model, "run", held)
        monkeypatch.setattr(serve.engine, "BRIEF", 0)  # a run that is held does not belong into the event loop


def test_a_lone_image_of_a_fast_model_runs_without_a_change_of_threads(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(tmp_path / "a").write()
    ran: list[tuple[str, int]] = []
    real = Model.run

    def noted(loaded: Model, images: np.ndarray) -> Any:
        ran.append((threading.current_thread().name, len(images)))
        return real(loaded, images)

    engine = Engine(Settings(models=tmp_path))

    async def work() -> None:
        here = threading.current_thread().name
        monkeypatch.setattr(Model, "run", noted)

        async def ask(count: int = 1) -> None:
            images = model.images(count, seed=count)
            result = await engine.infer(model.name, images)
            np.testing.assert_array_equal(result.logits, model.logits(images))

        monkeypatch.setattr(serve.engine, "BRIEF", 60)
        await ask()
        await ask()
        assert ran == [(here, 1), (here, 1)]
        ran.clear()
        await asyncio.gather(ask(), ask())  # two are a batch for the thread
        await ask(2)
        assert ran == [("engine", 2), ("engine", 2)]
        ran.clear()
        monkeypatch.setattr(serve.engine, "BRIEF", 0)
        await ask()
        assert ran == [("engine", 1)]

    run(engine, work)


def test_runs_in_several_event_loops_and_in_the_thread_never_meet(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lone images of three loops, some of which run in their loop, some in the engine's thread."""
    model = tiny(tmp_path / "a").write()
    monkeypatch.setattr(serve.engine, "BRIEF", 60)
    engine = Engine(Settings(models=tmp_path))
    running, met = threading.Lock(), []
    names: set[str] = set()
    real = Model.run

    def alone(loaded: Model, images: np.ndarray) -> Any:
        names.add(threading.current_thread().name)
        if not running.acquire(blocking=False):
            met.append(len(images))
            return real(loaded, images)
        try:
            return real(loaded, images)
        finally:
            running.release()

    def loop(number: int) -> None:
        async def work() -> None:
            for i in range(60):
                images = model.images(1, seed=1000 * number + i)
                result = await engine.infer(model.name, images)
                np.testing.assert_array_equal(result.logits, model.logits(images))

        asyncio.run(work())

    with engine, ThreadPoolExecutor(3, "loop") as pool:
        monkeypatch.setattr(Model, "run", alone)
        for done in [pool.submit(loop, number) for number in range(3)]:
            done.result(60)
    assert not met
    assert any(name.startswith("loop") for name in names)


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


def test_waiting_requests_share_a_run(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path))
    model = two[0]
    images = model.images(41)

    async def work() -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(engine.infer(model.name, images[:1]))
        await asyncio.to_thread(gate.entered.wait)
        others = [asyncio.create_task(engine.infer(model.name, images[i : i + 1])) for i in range(1, 41)]
        await asyncio.sleep(0.05)
        gate.open.set()
        results = await asyncio.gather(first, *others)
        assert gate.sizes == [1, 32, 8]
        np.testing.assert_array_equal(np.concatenate([result.logits for result in results]), model.logits(images))

    run(engine, work)


def test_a_run_may_wait_for_company(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, max_delay=2.0, max_batch=4))
    model = two[0]

    async def work() -> None:
        gate = Gate(monkeypatch)
        gate.open.set()
        began = time.monotonic()
        await asyncio.gather(*(engine.infer(model.name, model.images(1, seed)) for seed in range(4)))
        assert time.monotonic() - began < 1.5, "a full batch does not wait"
        assert gate.sizes == [4]
        began = time.monotonic()
        await engine.infer(model.name, model.images(1))
        assert time.monotonic() - began >= 2.0

    run(engine, work)


def test_a_full_batch_goes_before_an_older_one_that_may_wait(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(models=tmp_path, max_delay=1000, timeout=2000, max_batch=4))

    async def work() -> None:
        gate = Gate(monkeypatch)
        gate.open.set()
        lone = asyncio.create_task(engine.infer("a", two[0].images(1)))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await asyncio.gather(*(engine.infer("b", two[1].images(1, seed)) for seed in range(4)))
        assert gate.sizes == [4]
        assert not lone.done()
        # Nothing polls while it waits.
        before = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - before < 0.2
        async with asyncio.timeout(60):
            await asyncio.gather(lone, engine.infer("a", two[0].images(3)))
        assert gate.sizes == [4, 4]

    run(engine, work)


def test_one_that_has_waited_long_enough_goes_before_full_batches(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(models=tmp_path, max_delay=0.2, timeout=200, max_batch=4, max_queue=1000))
    order: list[str] = []

    async def ask(model: Any, count: int) -> None:
        await engine.infer(model.name, model.images(count))
        order.append(model.name)

    async def work() -> None:
        gate = Gate(monkeypatch)
        tasks = [asyncio.create_task(ask(two[1], 4))]
        await asyncio.to_thread(gate.entered.wait)
        tasks.append(asyncio.create_task(ask(two[0], 1)))
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(ask(two[1], 4)) for _ in range(100)]
        await asyncio.sleep(0.3)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert order == ["b", "a"] + ["b"] * 100

    run(engine, work)


def test_the_oldest_request_goes_first(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, max_batch=2))
    order: list[str] = []

    async def ask(model: Any, seed: int) -> None:
        await engine.infer(model.name, model.images(1, seed))
        order.append(model.name)

    async def work() -> None:
        gate = Gate(monkeypatch)
        tasks = [asyncio.create_task(ask(two[0], 0))]
        await asyncio.to_thread(gate.entered.wait)
        for seed, model in enumerate((two[0], two[1], two[0], two[0], two[1])):
            tasks.append(asyncio.create_task(ask(model, seed)))
            await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "a", "a", "b", "b", "a"]

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
        assert time.monotonic() - began < 0.1
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
        late = asyncio.create_task(engine.infer(model.name, model.images(5), deadline=0.05))
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
            await engine.infer("a", two[0].images(1), deadline=0)
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
        with pytest.raises(ModelNotReady, match="does not load"):
            await engine.infer("broken", good)

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
    go, real = threading.Event(), serve.repository.load

    def held(*arguments: Any) -> Model:
        assert go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(serve.repository, "load", held)
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
    go, real = [threading.Event(), threading.Event()], serve.repository.load
    calls = itertools.count()

    def held(*arguments: Any) -> Model:
        assert go[next(calls)].wait(60)
        return real(*arguments)

    monkeypatch.setattr(serve.repository, "load", held)
    engine = Engine(Settings(models=tmp_path))
    engine.start()
    first = engine.repository.settled
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
    real = serve.repository.load

    def load(folder: Path, settings: Settings) -> Model:
        if folder.name == "a":
            raise KeyError("surprise")
        return real(folder, settings)

    monkeypatch.setattr(serve.repository, "load", load)
    # One loader for both.
    monkeypatch.setattr(serve.repository, "usable_cores", lambda: 1)
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


REQUEST = st.tuples(
    st.sampled_from([0, 1]),  # model
    st.integers(1, 12),  # images
    st.sampled_from(["answer", "answer", "answer", "cancel", "deadline"]),
    st.floats(0, 0.004),  # seconds before it is sent, and until it is cancelled or late
)


@given(
    requests=st.lists(REQUEST, min_size=1, max_size=60),
    max_batch=st.integers(1, 16),
    max_queue=st.integers(12, 200),
    max_delay=st.sampled_from([0.0, 0.001]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hammered_every_answer_is_right(
    two: list[Any], tmp_path: Any, requests: list[Any], max_batch: int, max_queue: int, max_delay: float
) -> None:
    """Models, sizes, cancellations and deadlines mixed: each answer equals the single-image results, each request has
    exactly one outcome, and nothing stays behind."""
    limits = {"max_batch": max_batch, "max_queue": max_queue, "max_delay": max_delay, "max_images": 12}
    engine = Engine(Settings(models=tmp_path, **limits))

    async def ask(index: int, which: int, count: int, fate: str, seconds: float) -> str:
        model = two[which]
        images = model.images(count, seed=index)
        await asyncio.sleep(seconds)
        call = engine.infer(model.name, images, deadline=seconds if fate == "deadline" else None)
        task = asyncio.create_task(call)
        if fate == "cancel":
            asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            result = await task
        except Overloaded:
            return "refused"
        except DeadlineExceeded:
            assert fate == "deadline"
            return "late"
        except asyncio.CancelledError:
            assert fate == "cancel"
            return "cancelled"
        one_by_one = np.concatenate([model.logits(image[None]) for image in images])
        np.testing.assert_array_equal(result.logits, one_by_one)
        assert result.model.name == model.name
        return "answered"

    async def work() -> list[str]:
        return await asyncio.gather(*(ask(index, *request) for index, request in enumerate(requests)))

    outcomes = run(engine, work)
    assert len(outcomes) == len(requests)
    assert engine.metrics.registry.get_sample_value("serve_queue_images") == 0
    if sum(count for _, count, _, _ in requests) <= max_queue:
        assert "refused" not in outcomes


def test_models_come_and_go_while_they_are_asked(tiny: Any, tmp_path: Any) -> None:
    """Reloads, and unloads that are taken back, under a stream of requests: every answer is the old version's or the
    new one's, whole, and none is lost."""
    versions = [tiny(tmp_path / "model", seed=seed) for seed in (0, 1)]
    versions[0].write()
    engine = Engine(Settings(models=tmp_path))
    changes = 12
    done = threading.Event()

    def change() -> None:
        for index in range(changes):
            if index % 4 == 3:
                engine.repository.unload("model")
            versions[index % 2].write()
            engine.repository.load("model")
        done.set()

    async def ask(index: int) -> dict[str, int]:
        seen = {"old": 0, "new": 0, "away": 0}
        while not done.is_set():
            images = versions[0].images(1 + index % 3, seed=index)
            try:
                result = await engine.infer("model", images)
            except ModelNotReady:
                seen["away"] += 1
                await asyncio.sleep(0.001)
                continue
            if np.array_equal(result.logits, versions[0].logits(images)):
                seen["old"] += 1
            else:
                np.testing.assert_array_equal(result.logits, versions[1].logits(images))
                seen["new"] += 1
            await asyncio.sleep(0)
        return seen

    async def work() -> list[dict[str, int]]:
        changing = asyncio.create_task(asyncio.to_thread(change))
        seen = await asyncio.gather(*(ask(index) for index in range(8)))
        await changing
        return seen

    seen = run(engine, work)
    for key in ("old", "new", "away"):
        assert sum(part[key] for part in seen) > 0
