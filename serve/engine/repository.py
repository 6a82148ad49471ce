"""The folder's models: which are loaded, why the others are not, and how they are loaded and unloaded."""

import ctypes
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from serve.engine.models import Model, find, load
from serve.engine.processor import usable_cores
from serve.errors import ModelLoadError, ModelNotFound, ModelNotReady
from serve.settings import Settings

log = logging.getLogger("serve")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model's entry: `state` as the protocol's repository extension spells it, and `reason` where it is not READY."""

    name: str
    state: str
    reason: str = ""
    model: Model | None = None


class Repository:
    """The folder's models.

    `load` and `unload` run in the caller's thread, one at a time. Reading never waits for them.

    Attributes:
        settled: set once every model of the folder was tried.
    """

    def __init__(self, settings: Settings) -> None:
        self.settled = threading.Event()
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._change = threading.Lock()

    def start(self) -> None:
        """Start to load all models of the folder in threads, and return at once. Called again, it reloads them."""
        names = find(self._settings.models)
        if not names:
            log.warning("no models can be found in %s", self._settings.models)
        self._entries = {name: Entry(name, "LOADING") for name in names}
        # A new event each time: an earlier start may still be loading, and will set its own.
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
        """Return the ready model `name`.

        Raises:
            ModelNotFound: the folder had no model of this name.
            ModelNotReady: it is not loaded; the message says why.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(name, list(self._entries))
        if entry.model is None:
            raise ModelNotReady(name, entry.reason or entry.state.lower())
        return entry.model

    def ready(self) -> dict[str, Model]:
        """Return the loaded models by name."""
        return {name: entry.model for name, entry in list(self._entries.items()) if entry.model is not None}

    def index(self) -> list[Entry]:
        """List every model: loaded, not loaded, and added to the folder since the start."""
        new = [Entry(name, "UNAVAILABLE", "not loaded") for name in find(self._settings.models)]
        return sorted({**{entry.name: entry for entry in new}, **self._entries}.values(), key=lambda entry: entry.name)

    def load(self, name: str) -> None:
        """Load or reload `name`. The new version replaces the old one once it is warm; if it fails, the old one stays.

        Raises:
            ModelNotFound: the folder has no model of this name.
            ModelLoadError: it cannot be loaded; the message says why.
        """
        # Only names that the folder lists, so that no path is accepted.
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
        """Take `name` out of service. Jobs that already wait for it still run.

        Raises:
            ModelNotFound: the folder had no model of this name.
        """
        with self._change:
            if name not in self._entries:
                raise ModelNotFound(name, list(self._entries))
            self._entries[name] = Entry(name, "UNAVAILABLE", "unloaded")
        log.info("%s is unloaded", name)
        _give_back_memory()


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Make a thread that does not keep the process alive, unlike one of a pool."""
    return threading.Thread(target=work, args=arguments, name="loader", daemon=True)


def _give_back_memory() -> None:
    """Return freed memory to the system. The C library would otherwise keep it."""
    gc.collect()
    # Only the GNU library has it.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
