"""Driving an engine: in an event loop of its own, and with its runs held back."""

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
    """Holds every run until it is opened, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        for name in ("run", "run_on_one_core"):
            monkeypatch.setattr(Model, name, self._held(getattr(Model, name)))
        monkeypatch.setattr(serve.engine.batching, "BRIEF", 0)  # a run that is held does not belong into the event loop

    def _held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def held(model: Model, images: np.ndarray) -> Any:
            self.entered.set()
            assert self.open.wait(20)
            self.sizes.append(len(images))
            return real(model, images)

        return held
