"""Minutes of hostile clients: honest ones get their answers all the while, and afterwards nothing is left of them."""

import asyncio
import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from strangers import MAX_BODY, Strangers, Target, targets
from watching import eventually, sample

from serve.api import create_app
from serve.settings import Settings

Encode = Callable[..., bytes]

CLIENTS = 32
# The most threads that all pools may have: asyncio's, AnyIO's, and those that decode images or load models.
POOLS = min(32, (os.cpu_count() or 1) + 4) + 40 + (os.cpu_count() or 1) + 2
# Bytes that memory may grow in the second half, when each kind of attack has filled what its bound allows, and in all:
# sessions and unread results 34 MB, large bodies 34, images 13, uploads and responses 17.
GROWTH, FILLED = 32e6, 150e6
SECONDS = int(os.environ.get("SOAK_SECONDS", "600"))
# Bytes of uploads that the server keeps. With its own 256 MiB, uploads would be deleted too rarely to see it.
KEPT = 16 * 2**20
PROGRAM = f"""
import serve.app.hardening.upload_quota
serve.app.hardening.upload_quota.KEPT = {KEPT}
from serve.__main__ import main
main()
"""


def routes() -> list[Target]:
    """All routes of the API, its documentation and the app, those that are closed included."""

    async def make() -> Any:  # Gradio needs an event loop
        return create_app(Settings(models=Path("nowhere")))

    return sorted(set(targets(asyncio.run(make()).routes)))


def test_all_routes_are_attacked() -> None:
    found = routes()
    assert {("POST", "/classify/{model}"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/")} <= set(found)
    assert {("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/heartbeat/{session_hash}")} <= set(found)
    assert len(found) > 80


def images(encode: Encode) -> list[bytes]:
    """Images that are valid, broken, too large, or of another format."""
    valid = encode(Image.effect_noise((64, 64), 90))
    huge = bytearray(valid)
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    texts = PngImagePlugin.PngInfo()
    texts.add_text("key", "x" * 1_000_000, zip=True)
    large = Image.linear_gradient("L").resize((700, 700))
    return [
        valid,
        valid[: len(valid) // 2],
        bytes(huge),
        encode(Image.new("L", (9, 9)), pnginfo=texts),
        encode(large, "JPEG"),
        encode(large, "AVIF", speed=10),
        encode(large, "WEBP"),
        encode(Image.new("1", (20_000, 20_000)), compress_level=9),
        encode(Image.new("L", (30, 30)), "GIF"),
        b"<svg/>",
        bytes(300_000),
        b"",
    ]


class Visitor:
    """An honest client, which uses everything and notes each response that is not the right one."""

    def __init__(self, url: str, model: Any, encode: Encode) -> None:
        self.answers = 0
        self.wrong: list[str] = []
        self._url = url
        self._model = model
        self._images = [(pixels, encode(pixels)) for pixels in model.images(8)]

    async def use(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        actions = itertools.cycle(
            [self.classify, self.classify_form, self.infer, self.run, self.call, self.queue, self.read]
        )
        async with httpx.AsyncClient(base_url=self._url, timeout=60, verify=False) as client:
            for number, action in enumerate(actions):
                pixels, data = self._images[number % len(self._images)]
                right = await action(client, pixels, data)
                self.answers += 1
                if not right:
                    self.wrong.append(f"{action.__name__}: {self._last.status_code} {self._last.text[:300]}")
                if time.monotonic() > end:
                    return
                await asyncio.sleep(0.05)

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, **content: Any) -> Any:
        self._last = await client.request(method, path, **content)
        return self._last.json() if self._last.status_code == 200 else {}

    def _is_best(self, result: Any, pixels: np.ndarray) -> bool:
        return bool(result) and result["predictions"][0]["index"] == self._model.best(pixels)

    async def classify(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        return self._is_best(await self._ask(client, "POST", f"/classify/{self._model.name}", content=data), pixels)

    async def classify_form(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        path, files = f"/classify/{self._model.name}", {"file": ("a.png", data)}
        return self._is_best(await self._ask(client, "POST", path, files=files), pixels)

    async def infer(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        tensor = {"name": "image", "shape": [1, *pixels.shape], "datatype": "UINT8", "data": pixels.ravel().tolist()}
        path = f"/v2/models/{self._model.name}/infer"
        outputs = (await self._ask(client, "POST", path, json={"inputs": [tensor]})).get("outputs", [{"data": []}])
        return bool(np.array_equal(np.float32(outputs[0]["data"]), self._model.logits(pixels[None])[0]))

    async def _uploaded(self, client: httpx.AsyncClient, data: bytes) -> dict[str, str]:
        found = await self._ask(client, "POST", "/gradio_api/upload", files={"files": ("a.png", data)})
        return {"path": found[0] if found else "nothing"}

    async def run(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        call = {"data": [await self._uploaded(client, data), self._model.name]}
        result = await self._ask(client, "POST", "/gradio_api/run/classify_picture", json=call)
        return bool(result) and self._is_best(result["data"][0], pixels)

    async def call(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        call = {"data": [await self._uploaded(client, data), ""]}
        return await self._in_two(client, "/gradio_api/call/classify_picture", call, pixels)

    async def queue(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        """Through Gradio's queue, as gradio_client does."""
        call = {"image": await self._uploaded(client, data), "model": ""}
        return await self._in_two(client, "/gradio_api/call/v2/classify_picture", call, pixels)

    async def _in_two(self, client: httpx.AsyncClient, path: str, call: dict[str, Any], pixels: np.ndarray) -> bool:
        """Begin a call, and read its result."""
        event = (await self._ask(client, "POST", path, json=call)).get("event_id")
        self._last = await client.get(f"{path}/{event}")
        name, _, text = self._last.text.partition("\ndata: ")
        return name == "event: complete" and self._is_best(json.loads(text)[0], pixels)

    async def read(self, client: httpx.AsyncClient, pixels: np.ndarray, data: bytes) -> bool:
        expected = {"/": "gradio", "/docs": "swagger", "/metrics": "serve_requests", "/v2/health/ready": "true"}
        for path, word in expected.items():
            self._last = await client.get(path)
            if self._last.status_code != 200 or word not in self._last.text:
                return False
        return True


class Held:
    """What the process of a server holds.

    Attributes:
        memory: resident bytes.
        threads: how many there are.
        descriptors: what its file descriptors are, such as sockets.
    """

    def __init__(self, server: Any) -> None:
        process = Path(f"/proc/{server.process.pid}")
        self.memory = server.memory()
        self.threads = len(list((process / "task").iterdir()))
        self.descriptors: Counter[str] = Counter()
        for entry in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                self.descriptors[re.sub(r":\[\d+\]", "", str(entry.readlink()))] += 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "seconds", [4, pytest.param(SECONDS, marks=[pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 600)])]
)
def test_strangers_leave_nothing_behind(tiny: Any, tmp_path: Path, running: Any, encode: Encode, seconds: int) -> None:
    attacked = routes()
    folder = tmp_path / "models"
    model = tiny(folder / "improved_resnet18.cifar10").write()
    digits = tiny(
        folder / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(digit) for digit in range(10)]
    ).write()
    uploads, temporary = tmp_path / "uploads", tmp_path / "temporary"
    temporary.mkdir()
    options = ("--models", folder, "--max-body", MAX_BODY, "--max-pixels", 500_000, "--timeout", 5)
    # With an arena for each thread, what the allocator keeps would hide what the server keeps.
    environment = {"GRADIO_TEMP_DIR": str(uploads), "TMPDIR": str(temporary), "MALLOC_ARENA_MAX": "1"}
    with running(*options, program=("-c", PROGRAM), environment=environment) as server:
        new = Held(server)
        visitor = Visitor(server.url, model, encode)
        strangers = Strangers(server.url, attacked, images(encode), [model.name, digits.name], seed=0)

        def strain(seconds: float) -> Held:
            async def work() -> None:
                await asyncio.gather(strangers.attack(seconds, CLIENTS), visitor.use(seconds))

            asyncio.run(work())
            assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 1)
            assert eventually(lambda: Held(server).descriptors == new.descriptors), Held(server).descriptors
            return Held(server)

        middle, end = strain(seconds / 2), strain(seconds / 2)
        print(
            f"{sum(strangers.seen.values())} attacks, {sorted(strangers.statuses.items())}; {visitor.answers} answers"
        )
        print(f"MB: {[round(held.memory / 1e6) for held in (new, middle, end)]}; threads: {new.threads}, {end.threads}")
        assert visitor.wrong == []
        assert strangers.wrong == []
        assert all(strangers.seen[route] for route in attacked)
        assert sample(server.url, 'serve_requests_total{model="",outcome="failed"') == 0
        if seconds >= 60:  # by half of a shorter time, not every bound has been reached
            assert end.memory - middle.memory < GROWTH
        assert end.memory - new.memory < FILLED
        assert end.threads <= new.threads + POOLS
        assert list(temporary.iterdir()) == []
        (own,) = uploads.iterdir()
        assert [path for path in own.iterdir() if path.is_file() and path.name != "in-use"] == []  # broken-off uploads
        assert sum(path.stat().st_size for path in own.rglob("*") if path.is_file()) < KEPT * 9 / 8
        status, errors = server.stop()
    assert status == 0
    assert re.fullmatch(r"(INFO: improved_\w+\.\w+ is ready: fp32 on cpu\n){2}", errors), errors
    assert list(uploads.iterdir()) == list(temporary.iterdir()) == []
