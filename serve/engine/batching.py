"""One queue for all routes, and batches that form in it while others run."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from serve.engine.metrics import Metrics
from serve.engine.models import Images, Model, ModelInfo
from serve.engine.processor import inference_cores
from serve.engine.queues import Batch, Job, Queues, Result
from serve.engine.repository import Repository
from serve.errors import ApiError, BadRequest, DeadlineExceeded, Overloaded
from serve.settings import Settings

log = logging.getLogger("serve")

# Seconds that a run may hold up the event loop, where that saves a lone image the way to another thread and back.
BRIEF = 0.002

_Answers = Iterable[tuple[Job, Result | ApiError]]


class Engine:
    """Runs models for everybody who asks.

    `infer` puts images into one bounded queue. The engine's own threads, one for each core, take from it, oldest first,
    as soon as a run is over: under load batches form without anybody waiting for them to fill, and every core works on
    a run of its own. A lone image runs at once, on all cores; where the model is fast, even without a change of
    threads. Nothing polls; without work the threads sleep.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.repository = Repository(settings)
        self.draining = False
        self._queues = Queues(settings)
        self._lock = threading.Lock()  # for all that follows, and the queues
        self._running = 0
        self._alone = False  # the current run has all cores: no other may begin
        self._sleeping = 0  # threads that do
        self._beginning = False  # an event loop is about to call `_begin`
        self._closed = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.metrics.depth.set_function(lambda: self._queues.images)
        self.metrics.models.set_function(lambda: len(self.models()))

    def start(self) -> None:
        """Begin to load every model of the folder, and return; `wait` waits until that is done.

        May be called again after `close`.
        """
        self.draining = self._closed = False
        cores = range(inference_cores(self.settings))
        self._threads = [threading.Thread(target=self._work, name="engine", daemon=True) for _ in cores]
        for thread in self._threads:
            thread.start()
        self.repository.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until every model of the folder is loaded or known to be broken; False when `timeout` came first."""
        return self.repository.settled.wait(timeout)

    def abandon(self) -> None:
        """Answer 503 to all that waits, and from now on to all that comes."""
        self.draining = True
        with self._lock:
            self._closed = True
            left = self._queues.clear()
        _deliver((job, Overloaded("the server is shutting down")) for job in left)

    def close(self) -> None:
        """Abandon what waits, and end the threads after the runs they are in."""
        self.abandon()
        for _ in self._threads:
            self._wake.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def __enter__(self) -> "Engine":
        self.start()
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def unready(self) -> str:
        """Why no requests should be sent here now; empty once all models are tried and at least one is loaded."""
        if self.draining:
            return "shutting down"
        if not self.repository.settled.is_set():
            return "loading models"
        return "" if self.models() else "no model is loaded"

    def models(self) -> dict[str, ModelInfo]:
        """Return the ready models by name."""
        return {name: model.info for name, model in self.repository.ready().items()}

    async def infer(self, model: str, images: Images, *, timeout: float | None = None) -> Result:
        """Score `images`, uint8 [n, H, W, C] of the model's own size, n >= 1.

        `timeout` is the seconds after which the answer is of no use; `settings.timeout` holds too. Raises ApiError: 400
        for another shape, 404 for an unknown model, 503 for a model that is not ready or a full queue, 504 when it is
        too late. When the call is cancelled, its images leave the queue at once.
        """
        loaded = self.repository.get(model)
        self._check(loaded.info, images)
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        if seconds <= 0:
            raise DeadlineExceeded
        loop = asyncio.get_running_loop()
        job = Job(images, loop.create_future(), loop)
        self._put(loaded, job)
        timer = loop.call_later(seconds, _expire, job)
        try:
            return await job.answer
        except (asyncio.CancelledError, DeadlineExceeded):
            with self._lock:
                self._queues.remove(loaded, job)
            raise
        finally:
            timer.cancel()

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
            begin = self._sleeping > 0 and not self._alone and not self._beginning
            self._beginning = self._beginning or begin
        if begin:
            # Once this turn of the loop is over: whatever else came in it joins the same batch, and no thread wakes up
            # only to wait for the interpreter's lock.
            job.loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Have a sleeping thread do what is there; a lone image of a fast model runs here and now."""
        with self._lock:
            self._beginning = False
            model = self._queues.only_image()
            here = (
                model is not None
                and not self._running
                and model.single_image_seconds <= BRIEF
                and not self.settings.max_delay
                # During a shutdown the loop has to be quick to accept clients that are still on their way.
                and not self.draining
            )
            batch = self._take()[0] if here else None
            if batch is None:
                self._wake_one()
                return
        self._answer(batch, _settle)
        with self._lock:
            self._over()
            self._wake_one()  # others may have come meanwhile, from other threads

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                batch, pause = self._take()
                self._sleeping += batch is None
            if batch is not None:
                self._answer(batch)
                # Else its arrays, and a model that may be unloaded by now, would stay until the next batch.
                del batch
                with self._lock:
                    self._over()
            else:
                with suppress(Empty):
                    self._wake.get(timeout=pause)
                with self._lock:
                    self._sleeping -= 1

    def _take(self) -> tuple[Batch | None, float | None]:
        """Take a batch to run now; or none, and the seconds until there may be one, if that is known."""
        if self._alone:
            return None, None
        batch, pause = self._queues.take(self._running)
        if batch is not None:
            self._running += 1
            self._alone = batch.alone
            self._wake_one()
        return batch, pause

    def _over(self) -> None:
        """Note that a run has ended."""
        self._running -= 1
        self._alone = False

    def _wake_one(self) -> None:
        """Wake one thread up where there may be work for it; when it takes some, it wakes up the next."""
        if self._queues.images and self._sleeping and not self._alone:
            self._wake.put(None)

    def _answer(self, batch: Batch, deliver: Callable[[_Answers], None] | None = None) -> None:
        """Run a batch and deliver its results: to their event loops, or by `deliver`."""
        deliver = deliver or _deliver
        model = batch.model
        # Between its cancellation and its removal from the queue a job can still be taken.
        jobs = [job for job in batch.jobs if not job.answer.done()]
        if not jobs:
            return
        began = time.perf_counter()
        try:
            results = self._run(batch, [job.images for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                # One of them must not make the others fail.
                for job in jobs:
                    self._answer(Batch(model, [job], batch.alone), deliver)
            else:
                log.exception("a run of %s failed", model.info.name)
                deliver([(jobs[0], ApiError(500, f"{model.info.name} failed: {type(error).__name__}"))])
            return
        ended = time.perf_counter()
        deliver(zip(jobs, results, strict=True))
        images = sum(len(job.images) for job in jobs)
        self.metrics.ran(model.info.name, images, ended - began, [began - job.queued for job in jobs])

    def _run(self, batch: Batch, requests: Sequence[Images]) -> list[Result]:
        model = batch.model
        run = model.run if batch.alone else model.run_on_one_core
        images = requests[0] if len(requests) == 1 else np.concatenate(requests)
        # A single request may be longer than a batch.
        limit = self.settings.max_batch
        parts = [run(images[start : start + limit]) for start in range(0, len(images), limit)]
        logits, probabilities = (
            parts[0] if len(parts) == 1 else (np.concatenate(part) for part in zip(*parts, strict=True))
        )
        ends = list(itertools.accumulate(map(len, requests)))
        rows = [slice(end - len(request), end) for end, request in zip(ends, requests, strict=True)]
        return [Result(logits[part], probabilities[part], model.info) for part in rows]


def _deliver(answers: _Answers) -> None:
    """Hand answers to the event loops that wait for them, waking each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Job, Result | ApiError]]] = {}
    for job, answer in answers:
        loops.setdefault(job.loop, []).append((job, answer))
    for loop, part in loops.items():
        # A closed loop takes nothing, and nobody waits in it any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, part)


def _settle(answers: _Answers) -> None:
    """Hand answers to those who wait in this thread's event loop."""
    for job, answer in answers:
        if job.answer.done():
            continue
        if isinstance(answer, ApiError):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def _expire(job: Job) -> None:
    if not job.answer.done():
        job.answer.set_exception(DeadlineExceeded())
