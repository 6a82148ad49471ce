"""ModelStreamInfer: responses in order, errors that end nothing, and streams that do not stay for ever."""

import asyncio
import queue
from typing import Any

import grpc
import numpy as np
import pytest
from calling import Stub, message, scores
from engines import Gate
from tritonclient import grpc as triton
from tritonclient.grpc import aio

from serve.routes.grpc import streams

CODE = grpc.StatusCode


def image(pixels: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return tensor


def test_tritonclient_streams(server: Any, models: list[Any]) -> None:
    done: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: done.put((result, error)))
        for index in range(100):
            name = "third" if index == 50 else "first"
            client.async_stream_infer(name, [image(models[0].images(1, seed=index))], request_id=str(index))
        for index in range(100):
            result, error = done.get(timeout=60)
            if index == 50:
                assert "unknown model 'third'" in error.message()
                continue
            assert error is None
            assert result.get_response().id == str(index)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_array_equal(result.as_numpy("logits"), models[0].logits(models[0].images(1, seed=index)))
        client.stop_stream()


def test_the_asyncio_client_streams(server: Any, models: list[Any]) -> None:
    async def requests() -> Any:
        for index in range(40):
            yield {"model_name": "first", "inputs": [image(models[0].images(2, seed=index))]}

    async def work() -> None:
        async with aio.InferenceServerClient(server.grpc) as client:
            index = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None
                np.testing.assert_array_equal(
                    result.as_numpy("logits"), models[0].logits(models[0].images(2, seed=index))
                )
                index += 1
            assert index == 40

    asyncio.run(work())


def test_an_idle_stream_makes_room_for_another(two: list[Any], serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    monkeypatch.setattr(streams, "IDLE", 1e6)
    pixels = two[0].images(1)

    async def ask(stream: Any) -> None:
        await stream.write(message("a", pixels))
        response = await stream.read()
        assert not response.error_message
        np.testing.assert_array_equal(scores(response.infer_response), two[0].logits(pixels))

    async def work() -> None:
        async with serving(models=two[0].folder.parent) as (_, _state, channel):
            opened = [Stub(channel).ModelStreamInfer() for _ in range(2)]
            for stream in opened:
                await ask(stream)
            with pytest.raises(grpc.aio.AioRpcError, match="too many streams") as caught:
                await ask(Stub(channel).ModelStreamInfer())
            assert caught.value.code() == CODE.UNAVAILABLE
            monkeypatch.setattr(streams, "IDLE", 0)
            await ask(opened[0])
            third = Stub(channel).ModelStreamInfer()
            await ask(third)
            assert await opened[1].code() == CODE.UNAVAILABLE
            assert "made room" in await opened[1].details()
            for stream in (opened[0], third):
                await ask(stream)
                await stream.done_writing()
                assert await stream.code() == CODE.OK

    asyncio.run(work())


def test_a_cancelled_stream_takes_its_requests_along(two: list[Any], serving: Any, monkeypatch: Any) -> None:
    async def work() -> None:
        async with serving(models=two[0].folder.parent, threads=1) as (_, state, channel):
            engine = state.engine
            held = Gate(monkeypatch)
            stream = Stub(channel).ModelStreamInfer()
            await stream.write(message("a", two[0].images(1)))
            await asyncio.to_thread(held.entered.wait, 20)
            for _ in range(50):
                await stream.write(message("a", two[0].images(1)))
            async with asyncio.timeout(20):
                # As many as are answered at a time: the others stay with the client.
                while engine._queues.images < streams.WINDOW - 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert engine._queues.images == streams.WINDOW - 1
            stream.cancel()
            async with asyncio.timeout(20):
                while engine._queues.images:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            held.open.set()

    asyncio.run(work())


def test_draining_answers_what_has_arrived(two: list[Any], serving: Any, monkeypatch: Any) -> None:
    async def work() -> None:
        async with serving(models=two[0].folder.parent, threads=1) as (server, state, channel):
            engine = state.engine
            held = Gate(monkeypatch)
            pixels = two[0].images(1)
            stream, idle = Stub(channel).ModelStreamInfer(), Stub(channel).ModelStreamInfer()
            call = Stub(channel).ModelInfer(message("a", pixels))
            await idle.write(message("third", pixels))
            assert "unknown model" in (await idle.read()).error_message
            assert await asyncio.to_thread(held.entered.wait, 20)  # otherwise both could be in one batch
            await stream.write(message("a", pixels))
            async with asyncio.timeout(20):
                while engine._queues.images != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            draining = asyncio.create_task(server.drain(30))
            assert await idle.code() == CODE.UNAVAILABLE
            assert await idle.details() == "the server is shutting down"
            held.open.set()
            np.testing.assert_array_equal(scores(await call), two[0].logits(pixels))
            np.testing.assert_array_equal(scores((await stream.read()).infer_response), two[0].logits(pixels))
            assert await stream.code() == CODE.UNAVAILABLE
            await draining

    asyncio.run(work())
