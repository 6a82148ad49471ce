"""Models come and go: what the folder holds, which of it is loaded, and why the rest is not."""

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
    """The folder's models. They are loaded in the caller's thread, one after another; readers never wait for that."""

    def __init__(self, settings: Settings) -> None:
        self.settled = threading.Event()  # every model of the folder was tried once
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._change = threading.Lock()

    def start(self) -> None:
        """Begin to load all models of the folder in threads, and return; called again, load them anew."""
        names = find(self._settings.models)
        if not names:
            log.warning("no models can be found in %s", self._settings.models)
        self._entries = {name: Entry(name, "LOADING") for name in names}
        # A new event each time: an earlier start may still be loading, and sets the event that its callers wait for.
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
        """Return the ready model `name`. Raises ModelNotFound, or ModelNotReady with the reason."""
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
        """List every model: the loaded, the broken, and those that have come into the folder since."""
        new = [Entry(name, "UNAVAILABLE", "not loaded") for name in find(self._settings.models)]
        return sorted({**{entry.name: entry for entry in new}, **self._entries}.values(), key=lambda entry: entry.name)

    def missing(self) -> list[str]:
        """List the models that are not loaded, of all that were tried: the broken and the unloaded."""
        return sorted(name for name, entry in list(self._entries.items()) if entry.model is None)

    def load(self, name: str) -> None:
        """Load `name`, or load it anew. Raises ModelNotFound, ModelLoadError.

        The new version is warm before it replaces the old one, which stays where the new one fails.
        """
        # Only names that the folder itself lists: a path is not one.
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
        """Take `name` out of service; jobs that wait for it are still done. Raises ModelNotFound."""
        with self._change:
            if name not in self._entries:
                raise ModelNotFound(name, list(self._entries))
            self._entries[name] = Entry(name, "UNAVAILABLE", "unloaded")
        log.info("%s is unloaded", name)
        _give_back_memory()


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Make a thread that does not keep a process from ending, as a pool's would."""
    return threading.Thread(target=work, args=arguments, name="loader", daemon=True)


def _give_back_memory() -> None:
    """Return freed memory to the system: the C library would keep it, and the process look as large as before."""
    gc.collect()
    # Only the GNU library has it.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
