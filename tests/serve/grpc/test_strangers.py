"""What strangers send: garbage, floods, half of everything. The server stays up, small, and open to others."""

import asyncio
import gzip
import os
import random
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from calling import Stub, message, scores, status
from frames import HEAD, INFER, PREFACE, frame
from tritonclient.grpc import service_pb2 as pb
from watching import eventually

from serve.errors import ApiError
from serve.routes.grpc import arrival, messages

MB = 2**20


def works(server: Any, model: Any) -> bool:
    pixels = model.images(1)
    with grpc.insecure_channel(server.grpc) as channel:
        response = Stub(channel).ModelInfer(message("first", pixels), timeout=30)
    return np.array_equal(scores(response), model.logits(pixels))


def connect(server: Any) -> socket.socket:
    host, port = server.grpc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_garbage(server: Any, models: list[Any]) -> None:
    chance = random.Random(0)
    for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE, PREFACE + frame(4, 0, 0, b"")):
        for _ in range(20):
            with connect(server) as connection:
                connection.sendall(start + chance.randbytes(chance.randrange(1, 5000)))
    for odd in (
        frame(1, 4, 1, chance.randbytes(500)),  # headers that are no HPACK
        frame(1, 0, 1, HEAD) * 3,  # headers that never end
        frame(0, 0, 7, b"x" * 1000),  # data of a stream that is not there
        frame(8, 0, 0, struct.pack(">I", 2**31 - 1)) * 3,  # a window that overflows
        frame(6, 0, 0, bytes(8)) * 20_000,  # pings
        frame(4, 0, 0, struct.pack(">HI", 4, 0)) * 20_000,  # settings
        frame(1, 4, 1, HEAD) + frame(0, 1, 1, b"\0\xff\xff\xff\xff"),  # a message of 4 GB
        frame(1, 4, 1, HEAD) + frame(0, 1, 1, b"\1\0\0\0\3abc"),  # said to be compressed
        b"".join(frame(1, 4, 2 * n + 1, HEAD) + frame(3, 0, 2 * n + 1, bytes(4)) for n in range(5000)),  # rapid reset
    ):
        with connect(server) as connection:
            try:
                connection.sendall(PREFACE + frame(4, 0, 0, b"") + odd)
                connection.recv(1000)
            except OSError:
                pass  # the server has closed it
    assert works(server, models[0])


def test_a_flood_of_resets_cancels_no_call_of_others(server: Any, models: list[Any]) -> None:
    """The flood of one connection waits to be let in while another's calls come."""
    flood = b"".join(frame(1, 4, 2 * n + 1, HEAD) + frame(3, 0, 2 * n + 1, bytes(4)) for n in range(5000))
    for _ in range(4):
        with suppress(OSError), connect(server) as connection:  # the server may close it
            connection.sendall(PREFACE + frame(4, 0, 0, b"") + flood)
            connection.recv(1000)
        assert all(works(server, models[0]) for _ in range(3))


@pytest.mark.parametrize("metadata", [[("x", "y" * 100_000)], [(f"x{index}", "y") for index in range(5000)]])
def test_large_metadata_is_refused(server: Any, models: list[Any], metadata: list[tuple[str, str]]) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).ServerLive(pb.ServerLiveRequest(), metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert works(server, models[0])


def test_a_message_over_the_limit_is_refused(server: Any, models: list[Any]) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        infer = channel.unary_unary(INFER)
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(2_000_001))
        assert status(caught)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        # Also one that has this length only once it is decompressed.
        before = server.memory()
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                infer(bytes(100 * MB), compression=grpc.Compression.Gzip)
            assert status(caught)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.memory() - before < 50 * MB
    assert works(server, models[0])


def test_a_call_without_a_message_or_with_no_message_of_ours(server: Any) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(INFER)(iter(()))
        assert status(caught) == (grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message")
        for path in (INFER, "/inference.GRPCInferenceService/ModelConfig", "/grpc.health.v1.Health/Check"):
            for body in (b"\xff", b"\x0a\xff\xff", os.urandom(100_000) + b"\xff"):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(path)(body)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).ModelInfer(pb.ModelInferRequest(model_name="x" * 50_000))
        # A text as long as the name would not fit into the response's headers.
        assert status(caught)[0] == grpc.StatusCode.NOT_FOUND


def test_half_open_calls_do_not_hold_up_others(server: Any, models: list[Any]) -> None:
    """A thousand heads without a message, on some connections, and messages that never end."""
    connections = [connect(server) for _ in range(10)]
    try:
        for number, connection in enumerate(connections):
            heads = b"".join(frame(1, 4, 2 * stream + 1, HEAD) for stream in range(100))
            part = frame(0, 0, 1, b"\0" + struct.pack(">I", 100_000) + bytes(number))
            connection.sendall(PREFACE + frame(4, 0, 0, b"") + heads + part)
        for _ in range(20):
            assert works(server, models[0])
    finally:
        for connection in connections:
            connection.close()


def test_a_thousand_streams(server: Any, models: list[Any]) -> None:
    def wait() -> Any:
        stop.wait()
        yield from ()

    stop = threading.Event()
    before = server.memory()
    with grpc.insecure_channel(server.grpc) as channel:
        opened = [Stub(channel).ModelStreamInfer(wait()) for _ in range(300)]
        assert eventually(lambda: sum(stream.code() is not None for stream in opened if stream.done()) > 200)
        for _ in range(10):
            assert works(server, models[0])
        stop.set()
        for stream in opened:
            stream.cancel()
    assert server.memory() - before < 100 * MB


@pytest.mark.parametrize("path", [INFER, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_slow_messages_have_a_limit_of_their_own(
    two: list[Any], serving: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(arrival, "MAX_SLOW", 2)

    async def work() -> None:
        async with serving(models=two[0].folder.parent, timeout=1.5) as (_, _state, channel):
            half_open = channel.stream_unary(path)
            waiting = [half_open(), half_open()]
            for call in waiting:
                await call.wait_for_connection()
            await asyncio.sleep(4 * arrival.SOON)
            pixels = two[0].images(1)
            third = half_open()
            np.testing.assert_array_equal(
                scores(await Stub(channel).ModelInfer(message("a", pixels))), two[0].logits(pixels)
            )
            for call, code, words in [
                (third, grpc.StatusCode.UNAVAILABLE, "too many messages arrive slowly"),
                *((call, grpc.StatusCode.DEADLINE_EXCEEDED, "did not arrive within 1.5 s") for call in waiting),
            ]:
                with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
                    await call
                assert caught.value.code() == code

    asyncio.run(work())


def repeated(field: int, content: bytes, count: int) -> bytes:
    return (bytes([field << 3 | 2, len(content)]) + content) * count


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(repeated(messages.INPUTS, b"", 500_000), id="empty inputs"),
        pytest.param(repeated(messages.RAW, b"", 500_000), id="empty raw contents"),
        pytest.param(repeated(4, b"\x0a\x01x\x12\x00", 200_000), id="parameters"),
        pytest.param(
            bytes([messages.INPUTS << 3 | 2, 0x80, 0x80, 0x40]) + repeated(4, b"\x0a\x01x\x12\x00", 131_072),
            id="parameters of an input",
        ),
        pytest.param(
            bytes([messages.INPUTS << 3 | 2, 0xC0, 0x84, 0x3D])
            + bytes([messages.CONTENTS << 3 | 2, 0xBC, 0x84, 0x3D])
            + repeated(messages.FILES, b"", 499_998),
            id="empty files",
        ),
    ],
)
def test_structure_that_takes_far_more_memory_than_its_bytes(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        messages.read_infer(body)
    assert caught.value.status in (400, 413)


def test_the_largest_messages_pass(two: list[Any]) -> None:
    pixels = two[0].images(128)
    contents = pb.InferTensorContents(uint_contents=pixels.ravel().tolist())
    tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape, "contents": contents}
    for body in (message("a", pixels), pb.ModelInferRequest(model_name="a", inputs=[tensor])):
        found = messages.request_of(messages.read_infer(body.SerializeToString()), (32, 32, 3), max_images=128)
        np.testing.assert_array_equal(found.images, pixels)


def test_random_bytes_never_fail_otherwise() -> None:
    chance = random.Random(1)
    whole = message("a", np.zeros((30, 28, 28, 3), np.uint8)).SerializeToString()
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 20)):
            body[chance.randrange(60)] = chance.randrange(256)
        with suppress(ApiError):
            messages.request_of(messages.read_infer(bytes(body)), (28, 28, 3), max_images=128)


def test_gzip_is_not_taken_for_a_message() -> None:
    with pytest.raises(ApiError):
        messages.read_infer(gzip.compress(bytes(1000)))
