"""Overload, memory and idleness of real processes."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watching import eventually, post, sample

Encode = Callable[..., bytes]


def test_requests_of_clients_that_leave_are_dropped(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    model = tiny(tmp_path / "slow").write(cost=100)
    data = encode(model.images(1)[0])
    head = f"POST /classify/slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with running("--models", tmp_path, "--no-app", "--max-batch", 1, "--threads", 1) as server:
        before = sample(server.url, "serve_batch_size_sum")
        sockets = [server.connect() for _ in range(20)]
        for client in sockets:
            client.sendall(head + data)
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") > 20)
        for client in sockets:
            client.close()
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 1)
        assert sample(server.url, "serve_queue_images") == 0
        gone = sample(server.url, 'serve_requests_total{model="slow",outcome="gone"')
        assert gone >= 10
        assert sample(server.url, "serve_batch_size_sum") - before <= 20 - gone + 1


async def _flood(url: str, data: bytes, best: int, seconds: float, clients: int) -> tuple[int, Counter[str]]:
    """Send requests from `clients` connections without pauses; return how many, and the number of each outcome.

    It uses bare sockets, as a client library would need more processor time than the server.
    """
    address, _, path = url.removeprefix("http://").partition("/")
    host, port = address.split(":")
    request = f"POST /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    outcomes: Counter[str] = Counter()
    sent = 0
    end = time.monotonic() + seconds

    async def send_requests() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.monotonic() < end:
            sent += 1
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            status = head.split()[1]
            if status == "503":
                assert int(headers["retry-after"]) >= 1
            right = status != "200" or body["predictions"][0]["index"] == best
            outcomes[status if right else "wrong"] += 1
        writer.close()

    await asyncio.gather(*(send_requests() for _ in range(clients)))
    return sent, outcomes


@pytest.mark.parametrize("seconds", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_overload_is_refused_and_accounted_for(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, seconds: int
) -> None:
    """The queue holds 16 images and a run 4; 80 clients send requests without a pause."""
    model = tiny(tmp_path / "slow").write(cost=10)
    (pixels,) = model.images(1)
    arguments = ("--max-queue", 16, "--max-images", 16, "--max-batch", 4, "--timeout", 20)
    with running("--models", tmp_path, "--no-app", *arguments) as server:
        url = f"{server.url}/classify/slow"
        asyncio.run(_flood(url, encode(pixels), model.best(pixels), 0.5, 80))
        idle = server.memory()
        before = sample(server.url, 'serve_requests_total{model="slow"')
        sent, outcomes = asyncio.run(_flood(url, encode(pixels), model.best(pixels), seconds, 80))
        assert sent == outcomes.total()
        assert set(outcomes) == {"200", "503"}, outcomes
        assert sent > 4 * outcomes["200"] > 20
        assert sample(server.url, 'serve_requests_total{model="slow"') - before == sent
        assert server.memory() - idle < 50e6
        assert sample(server.url, "serve_queue_images") == 0


def test_unloading_frees_memory(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "small").write()
    with running("--models", tmp_path, "--no-app", "--model-control", "explicit") as server:
        post(f"{server.url}/v2/repository/models/small/load")
        before = server.memory()
        tiny(tmp_path / "large").write(ballast=50_000_000)
        assert post(f"{server.url}/v2/repository/models/large/load", timeout=60).status_code == 200
        loaded = server.memory()
        assert loaded - before > 37e6
        for _ in range(3):
            post(f"{server.url}/v2/repository/models/large/load", timeout=60)
        assert server.memory() - loaded < 25e6
        assert post(f"{server.url}/v2/repository/models/large/unload").status_code == 200
        assert server.memory() - before < 20e6


@pytest.mark.parametrize(("app", "most"), [("--app", 3), ("--no-app", 1)])
def test_idle_it_does_nothing(tiny: Any, tmp_path: Path, running: Any, encode: Encode, app: str, most: int) -> None:
    """Uvicorn's own server would wake up ten times a second, and Gradio's queue twenty times.

    Gradio looks once a second for values of visitors who have left.
    """
    model = tiny(tmp_path / "model").write()
    with running("--models", tmp_path, app) as server:
        post(f"{server.url}/classify/model", content=encode(model.images(1)[0]))
        time.sleep(0.5)
        before = server.wake_ups()
        time.sleep(1.5)
        assert server.wake_ups() - before <= most


def _peak(server: Any, requests: list[tuple[str, bytes]]) -> tuple[int, Counter[int]]:
    """Send all requests at once; return by how many bytes the server grew meanwhile, and the statuses."""
    idle = peak = server.memory()
    statuses: list[int] = []

    def ask(path: str, data: bytes) -> None:
        statuses.append(post(f"{server.url}/classify/{path}", content=data, timeout=500).status_code)

    threads = [threading.Thread(target=ask, args=request) for request in requests]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, server.memory())
        time.sleep(0.005)
    return peak - idle, Counter(statuses)


def test_images_cost_less_than_300_megabytes(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    """The largest images that are accepted, and small ones with texts that grow a thousandfold when decompressed."""
    from PIL import Image, PngImagePlugin

    from serve.images.decoder import TINY_BYTES

    model = tiny(tmp_path / "model").write()
    (small,) = model.images(1)
    with running("--models", tmp_path, "--no-app", "--timeout", 500) as server:
        assert post(f"{server.url}/classify/model", content=encode(small)).status_code == 200
        large = Image.effect_noise((1000, 1000), 10).resize((5000, 5000))
        texts = PngImagePlugin.PngInfo()
        for index in range(7):
            texts.add_text(f"key{index}", "x" * 1_000_000, zip=True)
        wordy = encode(Image.new("L", (1100, 1000)), pnginfo=texts)
        assert len(wordy) < TINY_BYTES
        images = [
            encode(Image.merge("RGBA", [Image.linear_gradient("L").resize((5000, 5000))] * 4), compress_level=1),
            encode(large, "JPEG", quality=30, progressive=True),
            encode(large.resize((3500, 3500)), "WEBP", quality=10, method=0),
            bytes(16 * 2**20),
        ]
        # The wordy ones are opened in two places.
        grown, statuses = _peak(
            server, [("model", data) for data in images * 2 + [wordy, wordy + bytes(TINY_BYTES)] * 15]
        )
        assert statuses == {200: 36, 415: 2}
        assert grown < 300e6


@pytest.mark.parametrize(
    ("kind", "options"), [("AVIF", {"speed": 10}), ("HEIF", {"quality": 30, "enc_params": {"preset": "ultrafast"}})]
)
def test_avif_and_heic_cost_less_than_300_megabytes(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, kind: str, options: dict[str, Any]
) -> None:
    """The largest that are accepted, with transparency, as images and as digits, which keep it; and larger ones."""
    from PIL import Image

    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    model = tiny(tmp_path / "model", shape=(28, 28, 1)).write()
    (small,) = model.images(1)
    with running("--models", tmp_path, "--no-app", "--timeout", 500) as server:
        assert post(f"{server.url}/classify/model?ink=auto", content=encode(small)).status_code == 200
        clear = Image.merge("RGBA", [Image.linear_gradient("L").resize((3500, 3500))] * 4)
        accepted, larger = (encode(image, kind, **options) for image in (clear, Image.new("L", (3600, 3500))))
        grown, statuses = _peak(
            server, [(path, data) for data in (accepted, larger) for path in ("model", "model?ink=auto")] * 2
        )
        assert statuses == {200: 4, 413: 4}
        assert grown < 300e6
