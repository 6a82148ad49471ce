"""Deadlines, cancellation and the full queue: a call that nobody waits for gives its place back."""

import asyncio
import socket
import struct
from typing import Any

import grpc
import numpy as np
import pytest
from calling import Stub, message, scores
from engines import Gate
from frames import HEAD, PREFACE, frame
from tritonclient.grpc import service_pb2 as pb

CODE = grpc.StatusCode


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def outcomes(engine: Any) -> dict[str, float]:
    """How many calls of ModelInfer had each outcome."""
    found: dict[str, float] = {}
    for metric in engine.metrics.requests.collect():
        for entry in metric.samples:
            if entry.name.endswith("_total") and "infer" in entry.labels["route"]:
                found[entry.labels["outcome"]] = found.get(entry.labels["outcome"], 0) + entry.value
    return found


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, two: list[Any]) -> Any:
    """Holds all runs once the models are warm: see `hold`."""

    class Later:
        def hold(self) -> Gate:
            return Gate(monkeypatch)

    return Later()


def test_cancelled_and_late_calls_leave_the_queue(two: list[Any], serving: Any, gate: Any) -> None:
    async def work() -> None:
        async with serving(models=two[0].folder.parent, threads=1) as (_, state, channel):
            engine = state.engine
            held = gate.hold()
            infer = Stub(channel).ModelInfer
            first = infer(message("a", two[0].images(1)))
            await asyncio.to_thread(held.entered.wait, 20)
            depth = lambda: engine._queues.images  # noqa: E731
            # By the client's deadline, by the request's own, and by the client itself.
            late = infer(message("a", two[0].images(1)), timeout=0.2)
            slow = message("a", two[0].images(2), parameters={"timeout": pb.InferParameter(int64_param=200_000)})
            own = infer(slow)
            left = [infer(message("b", two[1].images(3))) for _ in range(20)]
            await until(lambda: depth() == 63 or late.done())
            for call in left:
                call.cancel()
            for call in (late, own):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() == CODE.DEADLINE_EXCEEDED
            await until(lambda: not depth())
            held.open.set()
            np.testing.assert_array_equal(scores(await first), two[0].logits(two[0].images(1)))
            await until(lambda: sum(outcomes(engine).values()) == 23)
            # At its deadline the client leaves as well, and on a busy machine the server may hear of that first.
            assert outcomes(engine) in ({"ok": 1, "late": 2, "gone": 20}, {"ok": 1, "late": 1, "gone": 21})
            assert engine.repository.get("b").statistics.render()["inference_stats"]["fail"]["count"] == 20
            assert held.sizes == [1]

    asyncio.run(work())


def test_a_full_queue_is_unavailable_with_a_pushback(two: list[Any], serving: Any, gate: Any) -> None:
    async def work() -> None:
        async with serving(models=two[0].folder.parent, threads=1, max_queue=4) as (_, state, channel):
            engine = state.engine
            held = gate.hold()
            infer = Stub(channel).ModelInfer
            calls = [infer(message("a", two[0].images(1)))]
            await asyncio.to_thread(held.entered.wait, 20)
            calls.append(infer(message("a", two[0].images(4))))
            await until(lambda: engine._queues.images == 4)
            with pytest.raises(grpc.aio.AioRpcError, match="the queue is full") as caught:
                await infer(message("a", two[0].images(1)))
            assert caught.value.code() == CODE.UNAVAILABLE
            assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
            held.open.set()
            await asyncio.gather(*calls)
            await until(lambda: outcomes(engine) == {"ok": 2, "overloaded": 1})

    asyncio.run(work())


def test_a_storm_of_cancellations_leaves_nothing_behind(two: list[Any], serving: Any) -> None:
    async def work() -> None:
        async with serving(models=two[0].folder.parent) as (_, state, channel):
            engine = state.engine
            infer = Stub(channel).ModelInfer
            pixels = two[0].images(1)
            for wave in range(20):
                calls = [infer(message("a", pixels)) for _ in range(50)]
                await asyncio.sleep(0.001 * (wave % 5))
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            np.testing.assert_array_equal(scores(await infer(message("a", pixels))), two[0].logits(pixels))
            await until(lambda: not engine._queues.images)
            in_flight = next(iter(engine.metrics.in_flight.collect())).samples[0]
            assert in_flight.value == 0

    asyncio.run(work())


def test_the_memory_for_bodies_is_shared(two: list[Any], serving: Any) -> None:
    """Once it is full, large messages wait for room, and small ones do not."""

    async def work() -> None:
        async with serving(models=two[0].folder.parent, max_body=125_000, timeout=1.0) as (_, state, channel):
            infer = Stub(channel).ModelInfer
            large, small = two[0].images(40), two[0].images(1)
            held = await state.bodies.reserve(150_000)
            refused = infer(message("a", large), timeout=20)
            np.testing.assert_array_equal(scores(await infer(message("a", small))), two[0].logits(small))
            with pytest.raises(grpc.aio.AioRpcError, match="too many large requests") as caught:
                await refused
            assert caught.value.code() == CODE.UNAVAILABLE
            await state.bodies.release(held)
            for _ in range(4):  # as each gives its room back
                np.testing.assert_array_equal(scores(await infer(message("a", large))), two[0].logits(large))

    asyncio.run(work())


def test_calls_that_wait_in_the_core_form_batches(two: list[Any], serving: Any) -> None:
    """What comes while the event loop is busy with one image is let in together."""
    together = frame(6, 0, 0, b"together"), frame(6, 1, 0, b"together")  # a ping and its answer

    async def work() -> None:
        async with serving(models=two[0].folder.parent) as (_, state, channel):
            body = message("a", two[0].images(1)).SerializeToString()
            data = b"\0" + struct.pack(">I", len(body)) + body
            calls = b"".join(frame(1, 4, call, HEAD) + frame(0, 1, call, data) for call in range(1, 40, 2))
            await Stub(channel).ModelInfer(message("a", two[0].images(1)))
            counts = state.engine.repository.get("a").statistics.render

            async def runs() -> int:
                """Send 20 calls while the event loop stands still, and count the runs that they took."""
                before = counts()
                with socket.create_connection(("127.0.0.1", state.engine.settings.grpc_port), 20) as connection:
                    connection.sendall(PREFACE + frame(4, 0, 0, b"") + calls + together[0])
                    received = b""
                    while together[1] not in received:  # the core answers once it has what came before
                        received += connection.recv(65536)
                    await until(lambda: counts()["inference_count"] == before["inference_count"] + 20)
                return int(counts()["execution_count"] - before["execution_count"])

            found = [await runs() for _ in range(10)]
            # Let in one by one, nearly each call has a run of its own.
            assert min(found) <= 5, found

    asyncio.run(work())
