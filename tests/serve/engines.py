"""Helpers for tests of the engine: its own event loop, and runs that wait."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

import serve.engine.batching
from serve.engine.batching import Engine
from serve.engine.models import Model


def run(engine: Engine, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with engine:
        return asyncio.run(work())


class Gate:
    """Holds every run until `open` is set, and notes the size of its batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        for name in ("run", "run_on_one_core"):
            monkeypatch.setattr(Model, name, self._held(getattr(Model, name)))
        monkeypatch.setattr(serve.engine.batching, "BRIEF", 0)  # no run in the event loop, which it would block

    def _held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def held(model: Model, images: np.ndarray) -> Any:
            self.entered.set()
            assert self.open.wait(20)
            self.sizes.append(len(images))
            return real(model, images)

        return held
