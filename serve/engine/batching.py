"""The engine: one queue for all routes, in which batches form while others run."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from weakref import WeakSet

import numpy as np

from serve import tracing
from serve.engine.metrics import Metrics
from serve.engine.models import Images, Model, ModelInfo, Scores
from serve.engine.processor import inference_cores
from serve.engine.queues import Batch, Job, Queues, Result
from serve.engine.repository import Repository
from serve.engine.studies import Look, Studies
from serve.errors import ApiError, BadRequest, DeadlineExceeded, Overloaded
from serve.settings import Settings

log = logging.getLogger("serve")

# Seconds that a run may block the event loop, to save a lone image the way to another thread and back.
BRIEF = 0.002

_Outputs = tuple[Scores, ...]  # of one job
_Outcomes = Iterable[tuple[Job, _Outputs | ApiError]]


class Engine:
    """Runs models for all routes.

    `infer` puts images into one bounded queue. The engine's own threads, one for each core, take the oldest from it as
    soon as a run is over. Under load, batches form without waiting for more images, and every core works on a run of
    its own. A lone image runs at once, on all cores, and on the event loop's own thread if the model is fast. Nothing
    polls: without work the threads sleep. What the study files return, for `look`, comes by the same way.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.repository = Repository(settings)
        self.studies = Studies(settings)
        self.draining = False
        self._queues = Queues(settings)
        self._lock = threading.Lock()  # for all that follows, and the queues
        self._running = 0  # runs going on now
        self._alone = False  # the current run has all cores: no other may begin
        self._sleeping = 0  # threads of the engine that wait for work
        self._beginning: WeakSet[asyncio.AbstractEventLoop] = WeakSet()  # those about to call `_begin`
        self._closed = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.metrics.depth.set_function(lambda: self._queues.images)
        self.metrics.models.set_function(lambda: len(self.models()))

    def start(self) -> None:
        """Start to load every model of the folder, and return at once; `wait` blocks until they are loaded.

        It may be called again after `close`.
        """
        self.draining = self._closed = False
        cores = range(inference_cores(self.settings))
        self._threads = [threading.Thread(target=self._work, name="engine", daemon=True) for _ in cores]
        for thread in self._threads:
            thread.start()
        self.repository.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until `repository.settled`; False after `timeout` seconds."""
        return self.repository.settled.wait(timeout)

    def abandon(self) -> None:
        """Refuse all waiting requests, and from now on all new ones, with 503."""
        self.draining = True
        with self._lock:
            self._closed = True
            left = self._queues.clear()
        _deliver((job, Overloaded("the server is shutting down")) for job in left)

    def close(self) -> None:
        """Refuse all waiting requests, stop building, and end the threads after their current runs."""
        self.repository.close()
        self.abandon()
        for _ in self._threads:
            self._wake.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []
        self.studies.close()

    def __enter__(self) -> "Engine":
        self.start()
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def unready(self) -> str:
        """Why no requests should be sent here now; empty once all models were tried and at least one is loaded."""
        if self.draining:
            return "shutting down"
        if not self.repository.settled.is_set():
            return "loading models"
        return "" if self.models() else "no model is loaded"

    def models(self) -> dict[str, ModelInfo]:
        """Return the ready models by name."""
        return {name: model.info for name, model in self.repository.ready().items()}

    async def infer(self, model: str, images: Images, *, timeout: float | None = None) -> Result:
        """Score images. If the call is cancelled, its images leave the queue at once.

        Args:
            model: a name.
            images: uint8 [n, H, W, C] of the model's own size, n >= 1.
            timeout: seconds after which the result is of no use, if that is less than `settings.timeout`.

        Raises:
            ApiError: 400 for images of another shape, 404 for an unknown model, 503 for a model that is not ready or a
                full queue, 504 after `timeout`, 500 if the run fails.
        """
        loaded = self.repository.get(model)
        logits, probabilities = await self._outputs(loaded, images, timeout)
        return Result(logits, probabilities, loaded.info)

    async def look(self, model: str, image: Images) -> Look:
        """Compute what a model's study file returns for one image, uint8 [H, W, C] of the model's own size.

        Raises:
            ApiError: as `infer`, and 404 if the model has no study file, or one that shows nothing.
        """
        study = await self.studies.get(self.repository.get(model).info)
        return study.look(await self._outputs(study.model, image[None]))

    async def _outputs(self, loaded: Model, images: Images, timeout: float | None = None) -> _Outputs:
        """Run a model on one request's images by way of the queue. Raises as `infer` does."""
        self._check(loaded.info, images)
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        if seconds <= 0:
            raise DeadlineExceeded
        loop = asyncio.get_running_loop()
        job = Job(images, loop.create_future(), loop)
        succeeded = False
        timer = loop.call_later(seconds, _expire, job)
        try:
            self._put(loaded, job)
            result = await job.result
            succeeded = True
            return result
        except BaseException:
            with self._lock:
                self._queues.remove(loaded, job)
            raise
        finally:
            timer.cancel()
            loaded.statistics.answered(time.perf_counter() - job.queued, succeeded=succeeded)

    def _check(self, info: ModelInfo, images: Images) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != info.image_size or not len(images):
            wanted = ", ".join(map(str, info.image_size))
            raise BadRequest(f"images are {images.dtype} {list(images.shape)}; {info.name} takes uint8 [n, {wanted}]")
        if len(images) > self.settings.max_images:
            raise BadRequest(f"{len(images)} images in one request; at most {self.settings.max_images}")

    def _put(self, model: Model, job: Job) -> None:
        with self._lock:
            if self._closed:
                raise Overloaded("the server is shutting down")
            if self._queues.images + len(job.images) > self.settings.max_queue:
                raise Overloaded
            self._queues.put(model, job)
            if self._sleeping and not self._alone and job.loop not in self._beginning:
                # Once this turn of the loop is over: the other requests of the turn join the same batch, and no thread
                # wakes up only to wait for the interpreter's lock.
                job.loop.call_soon(self._begin, job.loop)
                self._beginning.add(job.loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run a lone image of a fast model on this thread, which is that of `loop`; leave all else to the others."""
        batch = None
        try:
            with self._lock:
                self._beginning.discard(loop)
                if self._may_run_here():
                    batch, _ = self._take()
            if batch is not None:
                self._complete(batch, _settle)
        finally:
            with self._lock:
                if batch is not None:
                    self._over()
                self._wake_one()  # for all other jobs, also those that came from other threads meanwhile

    def _may_run_here(self) -> bool:
        model = self._queues.only_image()
        return (
            model is not None
            and not self._running
            and model.single_image_seconds <= BRIEF
            and not self.settings.max_delay
            # During a shutdown the loop has to be quick to accept clients that are still connecting.
            and not self.draining
        )

    def _work(self) -> None:
        """Run batches until the engine closes: one of the engine's threads."""
        while not self._closed:
            try:
                self._run_or_sleep()
            except BaseException:
                # A thread that ended would be a core lost until the next start.
                log.exception("an engine thread goes on after an error")

    def _run_or_sleep(self) -> None:
        with self._lock:
            batch, pause = self._take()
            self._sleeping += batch is None
        if batch is None:
            try:
                with suppress(Empty):
                    self._wake.get(timeout=pause)
            finally:
                with self._lock:
                    self._sleeping -= 1
        else:
            try:
                self._complete(batch, _deliver)
            finally:
                with self._lock:
                    self._over()

    def _take(self) -> tuple[Batch | None, float | None]:
        """Take a batch to run now; `_over` has to follow it.

        Without one, the second value is the seconds until there may be one; None if that is not known.
        """
        if self._alone:
            return None, None
        batch, pause = self._queues.take(self._running)
        if batch is not None:
            self._running += 1
            self._alone = batch.alone
            self._wake_one()
        return batch, pause

    def _over(self) -> None:
        """Give back the cores of a run that has ended."""
        self._running -= 1
        self._alone = False

    def _wake_one(self) -> None:
        """Wake one thread if there may be work for it. When it takes a batch, it wakes the next."""
        if self._queues.images and self._sleeping and not self._alone:
            self._wake.put(None)

    def _complete(self, batch: Batch, deliver: Callable[[_Outcomes], None]) -> None:
        """Run a batch, and deliver a result or an error to each of its jobs, whatever happens."""
        try:
            self._run_and_deliver(batch, deliver)
        except BaseException as error:
            # Jobs that have their result by now keep it.
            failure = f"{batch.model.info.name} failed: {type(error).__name__}"
            deliver([(job, ApiError(500, failure)) for job in batch.jobs])
            raise

    def _run_and_deliver(self, batch: Batch, deliver: Callable[[_Outcomes], None]) -> None:
        model = batch.model
        # A cancelled job can still be taken before it is removed from the queue.
        jobs = [job for job in batch.jobs if not job.result.done()]
        if not jobs:
            return
        began = time.perf_counter()
        try:
            images = _joined([job.images for job in jobs])
            joined = time.perf_counter()
            scores = self._run(batch, images)
            ended = time.perf_counter()
            results = _separated(scores, jobs)
        except Exception as error:
            if len(jobs) > 1:
                # One of them must not make the others fail.
                for job in jobs:
                    self._run_and_deliver(Batch(model, [job], batch.alone), deliver)
            else:
                log.exception("a run of %s failed", model.info.name)
                deliver([(jobs[0], ApiError(500, f"{model.info.name} failed: {type(error).__name__}"))])
            return
        separated = time.perf_counter()
        waits = [began - job.queued for job in jobs]
        for job in jobs:
            if job.span is not None:
                tracing.record(job.span, "queue", job.queued, began)
                tracing.record(job.span, "run", began, separated, batch_size=len(images))
        # Before the results: a client that has its result finds it counted.
        model.statistics.ran(len(images), waits, (joined - began, ended - joined, separated - ended))
        deliver(zip(jobs, results, strict=True))
        self.metrics.ran(model.info.name, len(images), ended - began, waits)

    def _run(self, batch: Batch, images: Images) -> _Outputs:
        model = batch.model
        run = model.run if batch.alone else model.run_on_one_core
        # A single request may have more images than a batch.
        limit = self.settings.max_batch
        parts = [run(images[start : start + limit]) for start in range(0, len(images), limit)]
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(output) for output in zip(*parts, strict=True))


def _joined(requests: Sequence[Images]) -> Images:
    return requests[0] if len(requests) == 1 else np.concatenate(requests)


def _separated(outputs: _Outputs, jobs: Sequence[Job]) -> list[_Outputs]:
    """Give each job its rows of every output, float32 [n, ...] each."""
    ends = list(itertools.accumulate(len(job.images) for job in jobs))
    rows = [slice(end - len(job.images), end) for end, job in zip(ends, jobs, strict=True)]
    return [tuple(output[part] for output in outputs) for part in rows]


def _deliver(outcomes: _Outcomes) -> None:
    """Settle jobs on the threads of their own event loops, and wake each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Job, _Outputs | ApiError]]] = {}
    for job, outcome in outcomes:
        loops.setdefault(job.loop, []).append((job, outcome))
    for loop, part in loops.items():
        # A closed loop raises, and nothing waits in it any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, part)


def _settle(outcomes: _Outcomes) -> None:
    """Give jobs of this thread's event loop their results or errors, unless they have one."""
    for job, outcome in outcomes:
        if job.result.done():
            continue
        if isinstance(outcome, ApiError):
            job.result.set_exception(outcome)
        else:
            job.result.set_result(outcome)


def _expire(job: Job) -> None:
    if not job.result.done():
        job.result.set_exception(DeadlineExceeded())
