"""The engine under requests of all kinds, and under models that come and go: every answer is right."""

import asyncio
import threading
from typing import Any

import numpy as np
from engines import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.engine.batching import Engine
from serve.errors import DeadlineExceeded, ModelNotReady, Overloaded
from serve.settings import Settings

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
    threads=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hammered_every_answer_is_right(
    two: list[Any],
    tmp_path: Any,
    requests: list[Any],
    max_batch: int,
    max_queue: int,
    max_delay: float,
    threads: int,
) -> None:
    """Models, sizes, cancellations and deadlines mixed: each answer equals the single-image results, each request has
    exactly one outcome, and nothing stays behind.
    """
    limits: dict[str, Any] = {"max_batch": max_batch, "max_queue": max_queue, "max_delay": max_delay, "max_images": 12}
    engine = Engine(Settings(models=tmp_path, threads=threads, **limits))

    async def ask(index: int, which: int, count: int, fate: str, seconds: float) -> str:
        model = two[which]
        images = model.images(count, seed=index)
        await asyncio.sleep(seconds)
        call = engine.infer(model.name, images, timeout=seconds if fate == "deadline" else None)
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
    new one's, whole, and none is lost.
    """
    versions = [tiny(tmp_path / "model", seed=seed) for seed in (0, 1)]
    versions[0].write()
    engine = Engine(Settings(models=tmp_path))
    changes = 6
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
        seen = await asyncio.gather(*(ask(index) for index in range(4)))
        await changing
        return seen

    seen = run(engine, work)
    for key in ("old", "new", "away"):
        assert sum(part[key] for part in seen) > 0
