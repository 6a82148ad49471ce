"""One queue for all routes, and batches that form in it while the last one runs."""

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from serve.errors import ApiError, BadRequest, DeadlineExceeded, Overloaded
from serve.metrics import Metrics
from serve.models import Images, Model, ModelInfo, Scores
from serve.repository import Repository
from serve.settings import Settings

log = logging.getLogger("serve")

# Seconds that a run may hold up the event loop, where that spares a lone image the way to another thread and back.
BRIEF = 0.002


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of n images, float32 [n, classes] each, and the model that gave them."""

    logits: Scores
    probabilities: Scores
    model: ModelInfo


@dataclass(slots=True, eq=False)
class _Job:
    images: Images
    answer: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop
    queued: float


_Answers = Iterable[tuple[_Job, Result | ApiError]]


@dataclass(slots=True, eq=False)
class _Line:
    """The jobs that wait for one loaded model. A reload begins a new line: a job stays with the version that its images
    were checked for."""

    model: Model
    jobs: deque[_Job] = field(default_factory=deque)


class Engine:
    """Runs models for everybody who asks.

    `infer` puts images into one bounded queue. A thread of the engine's own takes from it, oldest first, up to
    `max_batch` images of one model, the moment the last run is over: under load batches are full without anybody
    waiting for them to fill, and a lone image runs at once, where the model is fast even without a change of threads.
    Nothing polls; without work the thread sleeps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.repository = Repository(settings)
        self.draining = False
        self._lines: dict[Model, _Line] = {}  # those with jobs
        self._lock = threading.Lock()
        self._waiting = 0  # images
        self._idle = False
        self._closed = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.metrics.depth.set_function(lambda: self._waiting)
        self.metrics.models.set_function(lambda: len(self.models()))

    def start(self) -> None:
        """Begins to load every model of the folder, and returns; `wait` tells when that is done. May be called
        again after `close`."""
        self.draining = self._closed = self._idle = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        self.repository.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until every model of the folder is loaded or known to be broken; False when `timeout` came first."""
        return self.repository.settled.wait(timeout)

    def abandon(self) -> None:
        """Answers 503 to all that waits, and from now on to all that comes."""
        self.draining = True
        with self._lock:
            self._closed = True
            left = [job for line in self._lines.values() for job in line.jobs]
            self._lines.clear()
            self._waiting = 0
        _deliver((job, Overloaded("the server is shutting down")) for job in left)

    def close(self) -> None:
        """Ends the thread after the run it is in; see `abandon`."""
        self.abandon()
        if self._thread is not None:
            self._wake.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Engine":
        self.start()
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def unready(self) -> str:
        """Why no requests should be sent here now; empty once all that can be loaded is, and that is not nothing."""
        if self.draining:
            return "shutting down"
        if not self.repository.settled.is_set():
            return "loading models"
        return "" if self.models() else "no model is loaded"

    def models(self) -> dict[str, ModelInfo]:
        """The ready models by name."""
        return {name: model.info for name, model in self.repository.ready().items()}

    async def infer(self, model: str, images: Images, *, timeout: float | None = None) -> Result:
        """Scores of `images`, uint8 [n, H, W, C] of the model's own size, n >= 1.

        `timeout` is the seconds after which the answer is of no use, at most `settings.timeout`. Raises
        ApiError: 400 for another shape, 404 for an unknown model, 503 for one that is not ready or a full queue, 504
        when it is too late. Cancelled, the images leave the queue at once.
        """
        loaded = self.repository.get(model)
        self._check(loaded.info, images)
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        if seconds <= 0:
            raise DeadlineExceeded
        loop = asyncio.get_running_loop()
        job = _Job(images, loop.create_future(), loop, time.perf_counter())
        self._put(loaded, job)
        timer = loop.call_later(seconds, _expire, job)
        try:
            return await job.answer
        except (asyncio.CancelledError, DeadlineExceeded):
            self._take_back(loaded, job)
            raise
        finally:
            timer.cancel()

    def _check(self, info: ModelInfo, images: Images) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != info.image_size or not len(images):
            wanted = ", ".join(map(str, info.image_size))
            raise BadRequest(f"images are {images.dtype} {list(images.shape)}; {info.name} takes uint8 [n, {wanted}]")
        if len(images) > self.settings.max_images:
            raise BadRequest(f"{len(images)} images in one request; at most {self.settings.max_images}")

    def _put(self, model: Model, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise Overloaded("the server is shutting down")
            if self._waiting + len(job.images) > self.settings.max_queue:
                raise Overloaded
            self._lines.setdefault(model, _Line(model)).jobs.append(job)
            self._waiting += len(job.images)
            wake, self._idle = self._idle, False
        if wake:
            # Once this turn of the loop is over: what else came with it gets into the same batch, and the thread does
            # not wake up only to wait for the interpreter's lock.
            job.loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Has the thread, which sleeps, do what is there; a lone image of a fast model runs here and now."""
        with self._lock:
            line = next(iter(self._lines.values()), None)
            here = (
                line is not None
                and self._waiting == 1
                and line.model.lone_seconds <= BRIEF
                and not self.settings.max_delay
                # At the end the loop has to be quick to accept whoever is still on the way.
                and not self.draining
            )
            batch = self._take(line) if line is not None and here else []
        if line is not None and batch:
            self._answer(line.model, batch, _settle)
            with self._lock:  # others may have come meanwhile, from other threads
                self._idle = not self._lines
                if self._idle:
                    return
        self._wake.put(None)

    def _take_back(self, model: Model, job: _Job) -> None:
        with self._lock:
            line = self._lines.get(model)
            if line is not None and job in line.jobs:
                line.jobs.remove(job)
                self._waiting -= len(job.images)
                if not line.jobs:
                    del self._lines[model]

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                line, pause = self._next()
                batch = self._take(line) if line is not None and not pause else []
                self._idle = not batch
            if batch and line is not None:
                self._answer(line.model, batch)
                # Else the last batch's arrays, and a model that is gone by now, would stay until the next one.
                del line, batch
            else:
                del line, batch
                with suppress(Empty):
                    self._wake.get(timeout=pause)

    def _next(self) -> tuple[_Line | None, float | None]:
        """The line to run, if any, and the seconds to wait for it to fill up yet.

        It is the one whose first job has waited longest; but while that may still wait, a full one comes before it.
        """
        line = _longest(self._lines.values())
        if line is None or not self.settings.max_delay:
            return line, None
        pause = line.jobs[0].queued + self.settings.max_delay - time.perf_counter()
        if pause <= 0:
            return line, None
        most = self.settings.max_batch
        full = _longest(line for line in self._lines.values() if sum(len(job.images) for job in line.jobs) >= most)
        return (line, pause) if full is None else (full, None)

    def _take(self, line: _Line) -> list[_Job]:
        batch = [line.jobs.popleft()]
        size = len(batch[0].images)
        while line.jobs and size + len(line.jobs[0].images) <= self.settings.max_batch:
            job = line.jobs.popleft()
            size += len(job.images)
            batch.append(job)
        if not line.jobs:
            del self._lines[line.model]
        self._waiting -= size
        return batch

    def _answer(self, model: Model, batch: Sequence[_Job], deliver: Callable[[_Answers], None] | None = None) -> None:
        """Runs a batch and delivers its results: to their event loops, or by `deliver`."""
        deliver = deliver or _deliver
        # Between cancelling and leaving the queue there is a moment in which a job can still be taken.
        batch = [job for job in batch if not job.answer.done()]
        if not batch:
            return
        began = time.perf_counter()
        try:
            results = self._run(model, [job.images for job in batch])
        except Exception as error:
            if len(batch) > 1:
                # One of them must not fail the others.
                for job in batch:
                    self._answer(model, [job], deliver)
            else:
                log.exception("a run of %s failed", model.info.name)
                deliver([(batch[0], ApiError(500, f"{model.info.name} failed: {type(error).__name__}"))])
            return
        ended = time.perf_counter()
        deliver(zip(batch, results, strict=True))
        images = sum(len(job.images) for job in batch)
        self.metrics.ran(model.info.name, images, ended - began, [began - job.queued for job in batch])

    def _run(self, model: Model, requests: Sequence[Images]) -> list[Result]:
        images = requests[0] if len(requests) == 1 else np.concatenate(requests)
        # A single request may be longer than a batch.
        limit = self.settings.max_batch
        parts = [model.run(images[start : start + limit]) for start in range(0, len(images), limit)]
        logits, probabilities = (
            parts[0] if len(parts) == 1 else (np.concatenate(part) for part in zip(*parts, strict=True))
        )
        ends = list(itertools.accumulate(map(len, requests)))
        rows = [slice(end - len(request), end) for end, request in zip(ends, requests, strict=True)]
        return [Result(logits[part], probabilities[part], model.info) for part in rows]


def _longest(lines: Iterable[_Line]) -> _Line | None:
    """The one whose first job has waited longest."""
    return min(lines, key=lambda line: line.jobs[0].queued, default=None)


def _deliver(answers: _Answers) -> None:
    """Hands answers to the event loops that wait for them, each loop woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Result | ApiError]]] = {}
    for job, answer in answers:
        loops.setdefault(job.loop, []).append((job, answer))
    for loop, part in loops.items():
        # A loop that is closed takes nothing, and who waited in it is gone with it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, part)


def _settle(answers: _Answers) -> None:
    """Hands answers to those who wait in this thread's event loop."""
    for job, answer in answers:
        if job.answer.done():
            continue
        if isinstance(answer, ApiError):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def _expire(job: _Job) -> None:
    if not job.answer.done():
        job.answer.set_exception(DeadlineExceeded())
