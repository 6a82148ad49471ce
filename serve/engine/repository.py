"""The folder's models: which are loaded, why the others are not, and how they are loaded and unloaded."""

import ctypes
import gc
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from serve.engine.building import Builder, unbuilt
from serve.engine.models import Model, find, load
from serve.engine.processor import usable_cores
from serve.errors import ModelLoadError, ModelNotFound, ModelNotReady
from serve.settings import Settings

log = logging.getLogger("serve")
BUILDING = "its ONNX files are being built"
# An absolute path; the group is its last part.
PATH = re.compile(r"""(?<![\w./:])(?:/[^\s/:;,'"]+)+/([^\s/:;,'"]*)""")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model's entry: `state` as the protocol's repository extension spells it, and `reason` where it is not READY."""

    name: str
    state: str
    reason: str = ""
    model: Model | None = None


class Repository:
    """The folder's models.

    `load` and `unload` run in the caller's thread, one at a time. Reading never waits for them. With `settings.build`,
    models whose ONNX files are missing or out of date are loaded when they are built.

    Attributes:
        settled: set once every model of the folder was tried, except for those that are being built while another is
            ready.
    """

    def __init__(self, settings: Settings) -> None:
        self.settled = threading.Event()
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._change = threading.Lock()
        self._builder: Builder | None = None

    def start(self) -> None:
        """Start to load all models of the folder in threads, and return at once. Called again, it reloads them."""
        folder, build = self._settings.models, self._settings.build == "yes"
        waiting = set(unbuilt(folder)) if build else set()
        names = [name for name in find(folder) if name not in waiting]
        if not names and not waiting:
            log.warning("no models can be found in %s", folder)
        self._entries = {name: Entry(name, "LOADING") for name in names}
        self._entries |= {name: Entry(name, "LOADING", BUILDING) for name in waiting}
        # A new event each time: an earlier start may still be loading, and will set its own.
        self.settled = threading.Event()
        self._builder = Builder(folder) if build else None
        _thread(self._start, names, self.settled, self._builder).start()

    def close(self) -> None:
        """Stop building ONNX files."""
        if self._builder:
            self._builder.stop()

    def _start(self, names: list[str], settled: threading.Event, builder: Builder | None) -> None:
        try:
            self._load_all(names)
            if builder:
                self._load_built(builder, settled)
        finally:
            settled.set()

    def _load_built(self, builder: Builder, settled: threading.Event) -> None:
        """Load each model that the builder has built."""
        if self.ready():
            settled.set()
        for name in builder.built():
            with self._change:
                self._try(name)
            if self.ready():
                settled.set()
        for name, entry in list(self._entries.items()):
            if entry.reason == BUILDING:
                self._entries[name] = Entry(name, "UNAVAILABLE", "its ONNX files could not be built")

    def _load_all(self, names: list[str]) -> None:
        left: SimpleQueue[str] = SimpleQueue()
        for name in names:
            left.put(name)
        loaders = [_thread(self._load_each, left) for _ in range(min(usable_cores(), len(names)))]
        with self._change:
            for loader in loaders:
                loader.start()
            for loader in loaders:
                loader.join()

    def _load_each(self, left: SimpleQueue[str]) -> None:
        with suppress(Empty):
            while True:
                self._try(left.get_nowait())

    def _try(self, name: str) -> None:
        try:
            self._swap(name)
        except ModelLoadError:
            pass  # logged already
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

    def missing(self) -> list[str]:
        """List the models that are not loaded, of all that were tried: the broken and the unloaded."""
        return sorted(name for name, entry in list(self._entries.items()) if entry.model is None)

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
        give_back_memory()

    def _swap(self, name: str) -> None:
        old = self._entries.get(name)
        try:
            model = load(self._settings.models / name, self._settings)
        except Exception as error:
            reason = self._without_paths(str(error)) or type(error).__name__
            if old is None or old.model is None:
                self._entries[name] = Entry(name, "UNAVAILABLE", reason)
            if not isinstance(error, ModelLoadError):
                raise
            log.warning("%s", error.message)
            raise ModelLoadError(reason) from error
        self._entries[name] = Entry(name, "READY", model=model)
        log.info("%s is ready: %s on %s", name, model.info.precision, model.info.device)

    def _without_paths(self, text: str) -> str:
        """Shorten absolute paths: clients see the text, and where this server's files are is not their concern."""
        folder = self._settings.models
        for path in (folder.resolve(), folder.absolute()):
            text = text.replace(f"{path}/", f"{path.name}/")
        return PATH.sub(r"\1", text)

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
        give_back_memory()


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Make a thread that does not keep the process alive, unlike one of a pool."""
    return threading.Thread(target=work, args=arguments, name="loader", daemon=True)


def give_back_memory() -> None:
    """Return freed memory to the system. The C library would otherwise keep it."""
    gc.collect()
    # Only the GNU library has it.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
