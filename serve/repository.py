"""Models come and go: what is in the folder, what of it is loaded, and why the rest is not."""

import ctypes
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from serve.cores import usable_cores
from serve.errors import ModelLoadError, ModelNotFound, ModelNotReady
from serve.models import Model, find, load
from serve.settings import Settings

log = logging.getLogger("serve")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model's place: `state` as the protocol's repository extension spells it, and `reason` where it is not READY."""

    name: str
    state: str
    reason: str = ""
    model: Model | None = None


class Repository:
    """The folder's models. Loading happens in the caller's thread, one change of a model after another; readers never
    wait for it."""

    def __init__(self, settings: Settings) -> None:
        self.settled = threading.Event()  # every model of the folder was tried once
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._change = threading.Lock()

    def start(self) -> None:
        """Begins to load all models of the folder in threads, and returns; called again, loads them anew."""
        names = find(self._settings.models)
        if not names:
            log.warning("no models can be found in %s", self._settings.models)
        self._entries = {name: Entry(name, "LOADING") for name in names}
        # Another one each time: what was begun before may still be loading, and tells only those who waited for it.
        self.settled = threading.Event()
        _thread(self._load_all, names, self.settled).start()

    def _load_all(self, names: list[str], settled: threading.Event) -> None:
        left: SimpleQueue[str] = SimpleQueue()
        for name in names:
            left.put(name)
        loaders = [_thread(self._load_each, left) for _ in range(min(usable_cores(), len(names)))]
        try:
            with self._change:
                for loader in loaders:
                    loader.start()
                for loader in loaders:
                    loader.join()
        finally:
            settled.set()

    def _load_each(self, left: SimpleQueue[str]) -> None:
        with suppress(Empty):
            while True:
                name = left.get_nowait()
                try:
                    self._swap(name)
                except ModelLoadError as error:
                    log.warning("%s", error.message)
                except Exception:
                    log.exception("%s does not load", name)

    def get(self, name: str) -> Model:
        """The ready model `name`. Raises ModelNotFound, or ModelNotReady with the reason."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(name, list(self._entries))
        if entry.model is None:
            raise ModelNotReady(name, entry.reason or entry.state.lower())
        return entry.model

    def ready(self) -> dict[str, Model]:
        """The models that run, by name."""
        return {name: entry.model for name, entry in list(self._entries.items()) if entry.model is not None}

    def index(self) -> list[Entry]:
        """Every model: the loaded, the broken, and those that have come into the folder since."""
        new = [Entry(name, "UNAVAILABLE", "not loaded") for name in find(self._settings.models)]
        return sorted({**{entry.name: entry for entry in new}, **self._entries}.values(), key=lambda entry: entry.name)

    def load(self, name: str) -> None:
        """Loads `name`, or loads it anew: the new version is warm before it takes the place of the old one, which stays
        where the new one fails. Raises ModelNotFound, ModelLoadError."""
        # Only names that the folder itself lists: a path is none.
        names = find(self._settings.models)
        if name not in names:
            raise ModelNotFound(name, names)
        with self._change:
            self._swap(name)
        _give_back_memory()

    def _swap(self, name: str) -> None:
        old = self._entries.get(name)
        try:
            model = load(self._settings.models / name, self._settings)
        except Exception as error:
            if old is None or old.model is None:
                self._entries[name] = Entry(name, "UNAVAILABLE", str(error) or type(error).__name__)
            raise
        self._entries[name] = Entry(name, "READY", model=model)
        log.info("%s is ready: %s on %s", name, model.info.precision, model.info.device)

    def unload(self, name: str) -> None:
        """Takes `name` out of service; jobs that wait for it are still done. Raises ModelNotFound."""
        with self._change:
            if name not in self._entries:
                raise ModelNotFound(name, list(self._entries))
            self._entries[name] = Entry(name, "UNAVAILABLE", "unloaded")
        log.info("%s is unloaded", name)
        _give_back_memory()


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that does not keep a process which is told to end, as a pool's would."""
    return threading.Thread(target=work, args=arguments, name="loader", daemon=True)


def _give_back_memory() -> None:
    """Freed memory stays with the C library otherwise, and the process looks as large as before."""
    gc.collect()
    # Only the GNU library has it.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
