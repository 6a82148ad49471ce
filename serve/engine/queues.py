"""The jobs that wait, a queue for each model, and which of them run next on how many cores."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serve import tracing
from serve.engine.models import Images, Model, ModelInfo, Scores
from serve.engine.processor import inference_cores
from serve.settings import Settings


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of n images, float32 [n, classes] each, and the model that gave them."""

    logits: Scores
    probabilities: Scores
    model: ModelInfo

    @property
    def familiar(self) -> npt.NDArray[np.bool_] | None:
        """Tell of each image whether its logits are those of an image of the classes: bool [n]; None: not known."""
        return None if self.model.familiarity is None else self.model.familiarity.familiar(self.logits)

    @property
    def abstained(self) -> npt.NDArray[np.bool_]:
        """Tell of each image whether it is unfamiliar or its highest probability too low for an answer: bool [n]."""
        familiar, threshold = self.familiar, self.model.abstain_below
        answered = np.ones(len(self.probabilities), np.bool_) if familiar is None else familiar
        if threshold is not None:
            answered &= self.probabilities.max(axis=1) >= threshold
        return ~answered  # not "lower than": NaN is no answer


def ranked(scores: Scores, most: int | None = None) -> list[int]:
    """Rank classes by float32 [classes]: the `most` best indices, best first; of equals the lower index first."""
    order: list[int] = np.argsort(-scores, kind="stable")[:most].tolist()
    return order


@dataclass(slots=True, eq=False)
class Job:
    """Images of one request, and the future of the model's outputs, which belongs to the event loop `loop`.

    Attributes:
        queued: when it was made, on the clock `time.perf_counter`.
        span: that of its request, for `tracing`.
    """

    images: Images
    result: asyncio.Future[tuple[Scores, ...]]
    loop: asyncio.AbstractEventLoop
    queued: float = field(default_factory=time.perf_counter)
    span: Any = field(default_factory=tracing.current.get)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs for one run, either `alone` on all cores or on one core beside other runs."""

    model: Model
    jobs: list[Job]
    alone: bool


@dataclass(slots=True, eq=False)
class _Queue:
    """The jobs that wait for one loaded model.

    A reload starts a new queue: a job stays with the version of the model that its images were checked for.
    """

    model: Model
    jobs: deque[Job] = field(default_factory=deque)


class Queues:
    """The jobs that wait. Not thread-safe: the engine calls it under a lock.

    Fewer jobs than cores go into one run on all cores, which gives the shortest latency. More jobs go into as many runs
    as there are cores, on one core each, which gives the highest throughput: their threads never wait for each other.

    Attributes:
        cores: how many runs may go on at once.
        images: how many images wait.
    """

    def __init__(self, settings: Settings) -> None:
        self.cores = inference_cores(settings)
        self.images = 0
        self._max_batch = settings.max_batch
        self._max_delay = settings.max_delay
        self._queues: dict[Model, _Queue] = {}  # those with jobs

    def put(self, model: Model, job: Job) -> None:
        """Add a job behind those that wait for the same model."""
        self._queues.setdefault(model, _Queue(model)).jobs.append(job)
        self.images += len(job.images)

    def remove(self, model: Model, job: Job) -> None:
        """Remove a job if it still waits."""
        queue = self._queues.get(model)
        if queue is not None and job in queue.jobs:
            queue.jobs.remove(job)
            self.images -= len(job.images)
            if not queue.jobs:
                del self._queues[model]

    def clear(self) -> list[Job]:
        """Remove and return all jobs."""
        left = [job for queue in self._queues.values() for job in queue.jobs]
        self._queues.clear()
        self.images = 0
        return left

    def only_image(self) -> Model | None:
        """Return the model of the only image that waits; None if no image waits, or more than one."""
        return next(iter(self._queues)) if self.images == 1 else None

    def take(self, running: int) -> tuple[Batch | None, float | None]:
        """Take the next batch, which may start at once beside `running` other runs.

        Without one, the second value is the seconds until one may start; None if none may start before a job comes or a
        run ends.
        """
        queue, pause = self._next()
        if queue is None or pause:
            return None, pause
        apart = queue.model.shares_cores and not self._max_delay  # with a delay, large batches are wanted
        if running and not apart:
            return None, None
        alone = not running and not (apart and sum(len(other.jobs) for other in self._queues.values()) >= self.cores)
        # Beside other runs, leave a share for each free core.
        share = self.images if alone else math.ceil(self.images / (self.cores - running))
        return Batch(queue.model, self._pop(queue, min(share, self._max_batch)), alone), None

    def _next(self) -> tuple[_Queue | None, float | None]:
        """Choose the queue to run, if any, and the seconds that it may still wait for more jobs.

        It is the queue whose first job has waited longest; but while that one may still wait, a full one goes first.
        """
        queue = _oldest(self._queues.values())
        if queue is None or not self._max_delay:
            return queue, None
        pause = queue.jobs[0].queued + self._max_delay - time.perf_counter()
        if pause <= 0:
            return queue, None
        full = _oldest(
            queue for queue in self._queues.values() if sum(len(job.images) for job in queue.jobs) >= self._max_batch
        )
        return (queue, pause) if full is None else (full, None)

    def _pop(self, queue: _Queue, most: int) -> list[Job]:
        """Remove the first jobs: at most `most` images in all, or a single job with more."""
        jobs = [queue.jobs.popleft()]
        size = len(jobs[0].images)
        while queue.jobs and size + len(queue.jobs[0].images) <= most:
            jobs.append(queue.jobs.popleft())
            size += len(jobs[-1].images)
        if not queue.jobs:
            del self._queues[queue.model]
        self.images -= size
        return jobs


def _oldest(queues: Iterable[_Queue]) -> _Queue | None:
    """Find the queue whose first job has waited longest."""
    return min(queues, key=lambda queue: queue.jobs[0].queued, default=None)
