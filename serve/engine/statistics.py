"""A model's statistics, in the form of Triton's statistics extension: counts, and nanoseconds in all."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duration:
    """How often something was done, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count something that was done `count` times, which took `seconds` in all."""
        self.count += count
        self.ns += round(seconds * 1e9)

    def render(self) -> dict[str, int]:
        """Write it as the protocol does."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Compute:
    """Durations of runs: joining the images, the model itself, separating the results."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, seconds: tuple[float, float, float], count: int = 1) -> None:
        """Count a run for each of `count` requests, all of which waited for all of it."""
        for duration, part in zip((self.input, self.infer, self.output), seconds, strict=True):
            duration.add(part * count, count)

    def render(self) -> dict[str, dict[str, int]]:
        """Write it as the protocol does."""
        return {
            "compute_input": self.input.render(),
            "compute_infer": self.infer.render(),
            "compute_output": self.output.render(),
        }


class Statistics:
    """The statistics of a loaded model. Requests are counted on event loops, runs on the engine's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inferences = 0
        self._last = 0.0  # seconds since 1970
        self._success, self._fail, self._queue = Duration(), Duration(), Duration()
        self._compute = Compute()
        self._batches: dict[int, Compute] = {}

    def answered(self, seconds: float, *, succeeded: bool) -> None:
        """Count a request that had its result or error after `seconds`."""
        with self._lock:
            (self._success if succeeded else self._fail).add(seconds)

    def ran(self, batch: int, waits: Sequence[float], seconds: tuple[float, float, float]) -> None:
        """Count a run.

        Args:
            batch: Images in it.
            waits: Seconds in the queue of each of its requests.
            seconds: Joining the images, running the model, separating the results.
        """
        with self._lock:
            self._inferences += batch
            self._last = time.time()
            for wait in waits:
                self._queue.add(wait)
            self._compute.add(seconds, len(waits))
            self._batches.setdefault(batch, Compute()).add(seconds)

    def render(self) -> dict[str, Any]:
        """Write the statistics as the protocol does, without the model's name."""
        none = Duration().render()
        with self._lock:
            return {
                "last_inference": int(self._last * 1000),
                "inference_count": self._inferences,
                "execution_count": sum(compute.infer.count for compute in self._batches.values()),
                "inference_stats": {
                    "success": self._success.render(),
                    "fail": self._fail.render(),
                    "queue": self._queue.render(),
                    **self._compute.render(),
                    "cache_hit": none,
                    "cache_miss": none,
                },
                "batch_stats": [
                    {"batch_size": size, **compute.render()} for size, compute in sorted(self._batches.items())
                ],
            }
