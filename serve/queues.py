"""What waits for a run, and what runs next: a queue of jobs for each model, and cores to share between runs."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from serve.models import Images, Model, ModelInfo, Scores
from serve.settings import Settings


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of n images, float32 [n, classes] each, and the model that gave them."""

    logits: Scores
    probabilities: Scores
    model: ModelInfo


def ranked(scores: Scores, most: int | None = None) -> list[int]:
    """Rank class indices by float32 [classes], best first, `most` of them; of equals the lower index comes first."""
    order: list[int] = np.argsort(-scores, kind="stable")[:most].tolist()
    return order


@dataclass(slots=True, eq=False)
class Job:
    """Images of one request, and who waits for their scores."""

    images: Images
    answer: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop
    queued: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs for one run: `alone` on all cores, or on one core beside others."""

    model: Model
    jobs: list[Job]
    alone: bool


@dataclass(slots=True, eq=False)
class _Queue:
    """The jobs that wait for one loaded model.

    A reload begins a new queue: a job stays with the version of the model that its images were checked for.
    """

    model: Model
    jobs: deque[Job] = field(default_factory=deque)


class Queues:
    """The jobs that wait. Not for several threads at once: the engine has a lock for that.

    Few jobs, fewer than there are cores, go into one run on all cores, the soonest way to their answers. Many go into
    runs of one core each, as many as there are cores: threads that never wait for each other do more.

    Attributes:
        cores: as many runs may be on their way at once.
        images: how many wait.
    """

    def __init__(self, settings: Settings) -> None:
        self.cores = settings.cores
        self.images = 0
        self._max_batch = settings.max_batch
        self._max_delay = settings.max_delay
        self._queues: dict[Model, _Queue] = {}  # those with jobs

    def put(self, model: Model, job: Job) -> None:
        self._queues.setdefault(model, _Queue(model)).jobs.append(job)
        self.images += len(job.images)

    def remove(self, model: Model, job: Job) -> None:
        """Takes a job back, where it still waits."""
        queue = self._queues.get(model)
        if queue is not None and job in queue.jobs:
            queue.jobs.remove(job)
            self.images -= len(job.images)
            if not queue.jobs:
                del self._queues[model]

    def clear(self) -> list[Job]:
        """Takes all."""
        left = [job for queue in self._queues.values() for job in queue.jobs]
        self._queues.clear()
        self.images = 0
        return left

    def only_image(self) -> Model | None:
        """The model that a single image, all that waits, is for."""
        return next(iter(self._queues)) if self.images == 1 else None

    def take(self, running: int) -> tuple[Batch | None, float | None]:
        """The next batch, which may begin at once beside `running` others.

        Without one, the seconds until one may; None: not before a job comes or a run ends.
        """
        queue, pause = self._next()
        if queue is None or pause:
            return None, pause
        apart = queue.model.shares_cores and not self._max_delay  # who has runs wait for company wants large ones
        if running and not apart:
            return None, None
        alone = not running and not (apart and sum(len(other.jobs) for other in self._queues.values()) >= self.cores)
        # Beside others no more than leaves something for each free core.
        share = self.images if alone else math.ceil(self.images / (self.cores - running))
        return Batch(queue.model, self._pop(queue, min(share, self._max_batch)), alone), None

    def _next(self) -> tuple[_Queue | None, float | None]:
        """The queue to run, if any, and the seconds to wait for it to fill up yet.

        It is the one whose first job has waited longest; but while that may still wait, a full one comes before it.
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
        """Its first jobs, of `most` images together, or one job of more."""
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
    """The one whose first job has waited longest."""
    return min(queues, key=lambda queue: queue.jobs[0].queued, default=None)
