"""One queue for all routes, and batches that form in it while the last one runs."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from serve import models
from serve.errors import ApiError, BadRequest, DeadlineExceeded, ModelNotFound, ModelNotReady, Overloaded
from serve.metrics import Metrics
from serve.models import Images, Model, ModelInfo, Scores
from serve.settings import Settings

log = logging.getLogger("serve")


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


@dataclass(slots=True, eq=False)
class _Slot:
    """A name's place in the repository. A reload makes a new slot: jobs stay with the version they were checked for."""

    name: str
    state: str  # LOADING, READY, UNAVAILABLE, as the model repository extension spells them
    reason: str = ""
    model: Model | None = None
    jobs: deque[_Job] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.jobs = deque()


class Engine:
    """Runs models for everybody who asks.

    `infer` puts images into one bounded queue; a thread of its own takes from it, oldest first, up to `max_batch` images
    of one model, the moment the last run is over. Nothing polls: without work the thread sleeps in the kernel.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._slots: dict[str, _Slot] = {}
        self._leaving: list[_Slot] = []  # replaced or unloaded, with jobs left
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._waiting = 0
        self._idle = False
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loaded = threading.Event()
        self.draining = False
        self.metrics.depth.set_function(lambda: self._waiting)
        self.metrics.models.set_function(lambda: len(self.models()))

    # Lifecycle

    def start(self) -> None:
        """Begins to load every model of the folder, and returns; `wait` tells when that is done."""
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        for name in models.find(self.settings.models):
            self._slots[name] = _Slot(name, "LOADING")
        threading.Thread(target=self._load_all, name="loader", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until every model of the folder is loaded or known to be broken; False when `timeout` came first."""
        return self._loaded.wait(timeout)

    def close(self) -> None:
        """Ends the thread after the run it is in; what waits is answered 503."""
        self.draining = True
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Engine":
        self.start()
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Repository

    @property
    def ready(self) -> bool:
        """Whether all that will load has loaded, and nothing is shutting down."""
        return self._loaded.is_set() and not self.draining and bool(self.models())

    def models(self) -> dict[str, ModelInfo]:
        """The ready models by name."""
        return {name: slot.model.info for name, slot in list(self._slots.items()) if slot.model is not None}

    def _load_all(self) -> None:
        for name in list(self._slots):
            try:
                self._load(name)
            except ApiError as error:
                log.warning("%s", error.message)
        self._loaded.set()

    def _load(self, name: str) -> None:
        with self._loading:
            try:
                model = models.load(self.settings.models / name, self.settings)
            except ApiError as error:
                slot = self._slots[name]
                if slot.model is None:
                    slot.state, slot.reason = "UNAVAILABLE", error.message
                raise
            self._slots[name] = _Slot(name, "READY", model=model)

    # Inference

    async def infer(self, model: str, images: Images, *, deadline: float | None = None) -> Result:
        """Scores of `images`, uint8 [n, H, W, C] of the model's own size, n >= 1.

        `deadline` is the seconds from now after which the answer is of no use. Raises ApiError: 400 for another shape,
        404 for an unknown model, 503 for one that is not ready or a full queue, 504 when it is too late.
        """
        slot = self._slots.get(model)
        if slot is None:
            raise ModelNotFound(model, list(self._slots))
        if slot.model is None:
            raise ModelNotReady(model, slot.reason or slot.state.lower())
        self._check(slot.model.info, images)
        loop = asyncio.get_running_loop()
        seconds = self.settings.timeout if deadline is None else min(deadline, self.settings.timeout)
        job = _Job(images, loop.create_future(), loop, time.monotonic())
        with self._lock:
            if self._waiting + len(images) > self.settings.max_queue:
                raise Overloaded
            slot.jobs.append(job)
            self._waiting += len(images)
            wake, self._idle = self._idle, False
        if wake:
            self._wake.put(True)
        timer = loop.call_later(seconds, _expire, job.answer, seconds)
        try:
            return await job.answer
        finally:
            timer.cancel()
            self._forget(slot, job)

    def _check(self, info: ModelInfo, images: Images) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != info.image_size or not len(images):
            wanted = ", ".join(map(str, info.image_size))
            raise BadRequest(f"images are {images.dtype} {list(images.shape)}; {info.name} takes uint8 [n, {wanted}]")
        if len(images) > self.settings.max_images:
            raise BadRequest(f"{len(images)} images in one request; at most {self.settings.max_images}")

    def _forget(self, slot: _Slot, job: _Job) -> None:
        """Takes a job whose caller has gone out of the queue, so that it neither costs a run nor fills a place."""
        if slot.jobs:
            with self._lock:
                if job in slot.jobs:
                    slot.jobs.remove(job)
                    self._waiting -= len(job.images)

    def _work(self) -> None:
        while True:
            with self._lock:
                taken = self._take()
                self._idle = taken is None
            if taken is not None:
                self._run(*taken)
            elif not self._wake.get():
                return

    def _take(self) -> tuple[Model, list[_Job]] | None:
        waiting = [slot for slot in self._slots.values() if slot.jobs]
        if not waiting:
            return None
        slot = min(waiting, key=lambda slot: slot.jobs[0].queued)
        batch: list[_Job] = []
        size = 0
        while slot.jobs and (not batch or size + len(slot.jobs[0].images) <= self.settings.max_batch):
            job = slot.jobs.popleft()
            size += len(job.images)
            batch.append(job)
        self._waiting -= size
        assert slot.model is not None
        return slot.model, batch

    def _run(self, model: Model, batch: Sequence[_Job]) -> None:
        images = batch[0].images if len(batch) == 1 else np.concatenate([job.images for job in batch])
        logits, probabilities = model.run(images)
        start = 0
        for job in batch:
            end = start + len(job.images)
            result = Result(logits[start:end], probabilities[start:end], model.info)
            job.loop.call_soon_threadsafe(_answer, job.answer, result)
            start = end


def _answer(answer: asyncio.Future[Result], result: Result) -> None:
    if not answer.done():
        answer.set_result(result)


def _expire(answer: asyncio.Future[Result], seconds: float) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded(seconds))
