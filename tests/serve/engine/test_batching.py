"""What the engine runs when, together with what, in which order and in which thread."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from engines import Gate, run

import serve.engine.batching
from serve.engine.batching import Engine
from serve.engine.models import Model
from serve.settings import Settings

pytestmark = pytest.mark.xdist_group("serve")


def test_a_lone_image_of_a_fast_model_runs_without_a_change_of_threads(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(tmp_path / "a").write()
    ran: list[tuple[str, int]] = []
    real = Model.run

    def noted(loaded: Model, images: np.ndarray) -> Any:
        ran.append((threading.current_thread().name, len(images)))
        return real(loaded, images)

    engine = Engine(Settings(models=tmp_path, threads=4))

    async def work() -> None:
        here = threading.current_thread().name
        monkeypatch.setattr(Model, "run", noted)

        async def ask(count: int = 1) -> None:
            images = model.images(count, seed=count)
            result = await engine.infer(model.name, images)
            np.testing.assert_array_equal(result.logits, model.logits(images))

        monkeypatch.setattr(serve.engine.batching, "BRIEF", 60)
        await ask()
        await ask()
        assert ran == [(here, 1), (here, 1)]
        ran.clear()
        await asyncio.gather(ask(), ask())  # two are a batch for a thread
        await ask(2)
        assert ran == [("engine", 2), ("engine", 2)]
        ran.clear()
        monkeypatch.setattr(serve.engine.batching, "BRIEF", 0)
        await ask()
        assert ran == [("engine", 1)]

    run(engine, work)


@pytest.mark.parametrize("threads", [1, 3])
def test_runs_on_all_cores_meet_no_other(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Requests of five loops, some of which run in their loop, some in the engine's threads."""
    model = tiny(tmp_path / "a").write()
    monkeypatch.setattr(serve.engine.batching, "BRIEF", 60)
    engine = Engine(Settings(models=tmp_path, threads=threads))
    lock, running = threading.Lock(), {"run": 0, "run_on_one_core": 0}
    seen: set[tuple[int, int]] = set()
    names: set[str] = set()

    def counted(kind: str) -> Callable[..., Any]:
        real = getattr(Model, kind)

        def run(loaded: Model, images: np.ndarray) -> Any:
            names.add(threading.current_thread().name)
            with lock:
                running[kind] += 1
                seen.add((running["run"], running["run_on_one_core"]))
            try:
                return real(loaded, images)
            finally:
                with lock:
                    running[kind] -= 1

        return run

    def loop(number: int) -> None:
        async def work() -> None:
            for i in range(60):
                images = model.images(1 + i % 2, seed=1000 * number + i)
                result = await engine.infer(model.name, images)
                np.testing.assert_array_equal(result.logits, model.logits(images))

        asyncio.run(work())

    with engine, ThreadPoolExecutor(5, "loop") as pool:
        for kind in running:
            monkeypatch.setattr(Model, kind, counted(kind))
        for done in [pool.submit(loop, number) for number in range(5)]:
            done.result(60)
    beside = {(0, count) for count in range(1, threads + 1)} if threads > 1 else set()
    assert (1, 0) in seen
    assert seen <= {(1, 0), *beside}
    assert any(name.startswith("loop") for name in names)


def test_many_are_spread_over_the_cores(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, threads=3))
    model = two[0]
    images = model.images(41)
    real, meeting, sizes = Model.run_on_one_core, threading.Barrier(3), []

    def met(loaded: Model, images: np.ndarray) -> Any:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(20)  # passes where three run side by side
        meeting.abort()  # the first ones; those after them need not meet
        sizes.append(len(images))
        return real(loaded, images)

    async def work() -> None:
        gate = Gate(monkeypatch)
        monkeypatch.setattr(Model, "run_on_one_core", met)
        first = asyncio.create_task(engine.infer(model.name, images[:1]))
        await asyncio.to_thread(gate.entered.wait)
        others = [asyncio.create_task(engine.infer(model.name, images[i : i + 1])) for i in range(1, 41)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        gate.open.set()
        results = await asyncio.gather(first, *others)
        assert time.monotonic() - began < 15
        assert gate.sizes == [1]
        assert sorted(sizes) == [13, 13, 14]
        np.testing.assert_array_equal(np.concatenate([result.logits for result in results]), model.logits(images))

    run(engine, work)


def test_fewer_requests_than_cores_run_together_on_all(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(models=tmp_path, threads=3))
    model = two[0]

    async def work() -> None:
        gate = Gate(monkeypatch)
        monkeypatch.setattr(Model, "run_on_one_core", None)
        gate.open.set()
        await asyncio.gather(*(engine.infer(model.name, model.images(20, seed)) for seed in range(2)))
        await engine.infer(model.name, model.images(100))
        assert gate.sizes == [20, 20, 32, 32, 32, 4]

    run(engine, work)


def test_a_model_that_shares_no_cores_waits_until_it_is_alone(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a GPU does beside one on the CPU; and those that come after it wait for it."""
    engine = Engine(Settings(models=tmp_path, threads=2, max_batch=1))
    order: list[str] = []

    async def ask(model: Any, seed: int) -> None:
        images = model.images(1, seed)
        result = await engine.infer(model.name, images)
        np.testing.assert_array_equal(result.logits, model.logits(images))
        order.append(model.name)

    async def work() -> None:
        gate = Gate(monkeypatch)
        engine.repository.get("b").shares_cores = False
        tasks = [asyncio.create_task(ask(two[0], seed)) for seed in range(3)]
        tasks += [asyncio.create_task(ask(two[1], seed)) for seed in range(2)]
        tasks += [asyncio.create_task(ask(two[0], seed)) for seed in range(3, 6)]
        await asyncio.to_thread(gate.entered.wait)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert order == ["a"] * 3 + ["b"] * 2 + ["a"] * 3

    run(engine, work)


def test_waiting_requests_share_a_run(two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Settings(models=tmp_path, threads=1))
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
    engine = Engine(Settings(models=tmp_path, threads=1, max_batch=2))
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
