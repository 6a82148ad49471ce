"""Errors that no one expects: every request gets an answer, and no core is lost for those after it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engines import Gate, run
from watching import eventually

import serve.engine.batching
from serve.engine.batching import Engine
from serve.engine.metrics import Metrics
from serve.engine.models import Model
from serve.errors import ApiError
from serve.settings import Settings

# Seconds after which a request is taken to be stranded.
STRANDED = 20


async def right_answers(engine: Engine, model: Any, count: int = 6) -> None:
    """More requests than cores, then a lone one on all cores."""
    for requests in (count, 1):
        images = [model.images(1 + seed % 2, seed) for seed in range(requests)]
        calls = [engine.infer(model.name, part, timeout=STRANDED) for part in images]
        for result, part in zip(await asyncio.gather(*calls), images, strict=True):
            np.testing.assert_array_equal(result.logits, model.logits(part))


def failing_once(real: Callable[..., Any], errors: list[BaseException]) -> Callable[..., Any]:
    """The same function, that takes an error from `errors` and raises it while there is one."""

    def call(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*arguments)

    return call


@pytest.mark.parametrize("kind", [MemoryError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_that_fails_keeps_its_core(
    kind: type[BaseException], threads: int, two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More runs fail than there are cores, and after them all cores are free."""
    engine = Engine(Settings(models=tmp_path, threads=threads))
    monkeypatch.setattr(serve.engine.batching, "BRIEF", 0)
    real = Engine._run

    async def work() -> None:
        for _ in range(2 * threads):
            errors: list[BaseException] = [kind()]
            monkeypatch.setattr(Engine, "_run", failing_once(real, errors))
            images = [two[0].images(1, seed) for seed in range(threads)]
            calls = [engine.infer("a", part, timeout=STRANDED) for part in images]
            for result, part in zip(await asyncio.gather(*calls, return_exceptions=True), images, strict=True):
                if isinstance(result, BaseException):
                    assert isinstance(result, ApiError)
                    assert (result.status, result.message) == (500, f"a failed: {kind.__name__}")
                else:
                    np.testing.assert_array_equal(result.logits, two[0].logits(part))
            assert not errors
        await right_answers(engine, two[1], 10 * threads)
        free = (0, False, threads)
        assert eventually(lambda: (engine._running, engine._alone, engine._sleeping) == free)

    run(engine, work)


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_an_error_that_ends_the_event_loop_ends_no_other(
    error: BaseException, two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone image runs in its request's event loop; the next one comes from another."""
    engine = Engine(Settings(models=tmp_path, threads=2))
    monkeypatch.setattr(serve.engine.batching, "BRIEF", 60)
    with engine, monkeypatch.context() as patch:
        patch.setattr(Model, "run", failing_once(Model.run, [error]))
        with pytest.raises(type(error)):
            asyncio.run(engine.infer("a", two[0].images(1), timeout=STRANDED))
        asyncio.run(right_answers(engine, two[1]))


@pytest.mark.parametrize("brief", [0, 60])
def test_an_error_after_the_answer_keeps_the_answer_and_the_core(
    brief: float, two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(models=tmp_path, threads=1))
    monkeypatch.setattr(serve.engine.batching, "BRIEF", brief)
    monkeypatch.setattr(Metrics, "ran", failing_once(Metrics.ran, [MemoryError()]))

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await right_answers(engine, two[0], 1)
        await right_answers(engine, two[1])

    run(engine, work)


def test_requests_of_a_batch_that_fails_wait_for_nothing(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that came while it ran."""
    engine = Engine(Settings(models=tmp_path, threads=1))

    async def work() -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(engine.infer("a", two[0].images(1)))
        await asyncio.to_thread(gate.entered.wait)
        calls = [asyncio.create_task(engine.infer("a", two[0].images(1, seed), timeout=STRANDED)) for seed in range(3)]
        await asyncio.sleep(0)
        last = asyncio.create_task(engine.infer("b", two[1].images(1), timeout=STRANDED))
        await asyncio.sleep(0)
        monkeypatch.setattr(Engine, "_run", failing_once(Engine._run, [SystemExit()]))
        gate.open.set()
        await first
        for failure in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(failure, ApiError)
            assert failure.status == 500
        await last

    run(engine, work)


def test_an_event_loop_that_ends_before_its_turn_holds_up_no_other(two: list[Any], tmp_path: Any) -> None:
    """Its request is in the queue, and what was to begin it never runs."""
    with Engine(Settings(models=tmp_path, threads=2)) as engine:
        loop = asyncio.new_event_loop()
        task = loop.create_task(engine.infer("a", two[0].images(1)))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert not task.done()
        asyncio.run(right_answers(engine, two[1]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def test_the_engines_threads_outlive_every_error(
    two: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(Settings(models=tmp_path, threads=3)) as engine:
        before = {thread.ident for thread in threading.enumerate() if thread.name == "engine"}
        assert len(before) == 3
        monkeypatch.setattr(serve.engine.batching, "BRIEF", 0)
        monkeypatch.setattr(Engine, "_take", failing_once(Engine._take, [MemoryError()]))
        asyncio.run(right_answers(engine, two[0]))
        assert {thread.ident for thread in threading.enumerate() if thread.name == "engine"} == before
