"""The study files: maps of a network's first, middle and last stage, loaded while somebody looks into the network.

`train/study` builds them. Few are in memory at a time, and none once nobody looks.
"""

import asyncio
import base64
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from serve.engine.models import Model, ModelInfo, Scores, open_session
from serve.engine.repository import give_back_memory
from serve.errors import DeadlineExceeded, NoStudy
from serve.settings import Settings

FILE = "model.study.onnx"
STAGES = ("first", "middle", "last")
CLASS_MAPS = "class_maps"
# The most files in memory, some 100 MB each, and the seconds after which one that is not used is closed.
KEPT = 2
IDLE = 300.0

Span = tuple[int, int]
T = TypeVar("T")


class Filter(NamedTuple):
    """The filter that makes one map.

    Attributes:
        inputs: how many maps, or colours, it spans.
        shown: which of them are in `weights`, those with the largest weights first.
        weights: int8 [shown, height, width], as shares of the largest: 127 is that.
    """

    inputs: int
    shown: list[int]
    weights: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Stage:
    """What a study file states about one of its stages.

    Attributes:
        name: one of `STAGES`, and of the file's outputs.
        layer: the network's own name of the layer.
        shape: (channels, height, width) of the maps.
        rows: of each row of a map, the first and the last row of the image that it depends on.
        columns: of each column, likewise.
        classes: the class that each map counts most for, and the one that it counts most against; empty if not known.
    """

    name: str
    layer: str
    shape: tuple[int, int, int]
    rows: list[Span]
    columns: list[Span]
    classes: list[Span]
    filters: list[Any]

    def filter(self, channel: int) -> Filter | None:
        """Return the filter that makes a map; None where no single convolution does."""
        found = self.filters[channel]
        if found is None:
            return None
        weights = np.frombuffer(base64.b64decode(found["weights"]), np.int8)
        return Filter(int(found["inputs"]), found["shown"], weights.reshape(len(found["shown"]), *found["size"]))


@dataclass(frozen=True)
class Look:
    """What a study file returns for one image.

    Attributes:
        maps: by the name of the stage, float32 [channels, height, width].
        class_maps: float32 [classes, height, width]: their means and the bias are the logits; None for a network that
            does not pool its last map to one value for each channel.
        stages: what is known of the stages, in their order.
    """

    maps: Mapping[str, Scores]
    class_maps: Scores | None
    stages: list[Stage]


@dataclass
class Study:
    """A study file in memory.

    Attributes:
        stamp: of the file that it was loaded from.
        used: when it was used last, on the clock `time.monotonic`.
    """

    model: Model
    stages: list[Stage]
    outputs: tuple[str, ...]
    stamp: tuple[int, int]
    used: float = 0.0

    def look(self, outputs: tuple[Scores, ...]) -> Look:
        """Name the outputs of a run on one image."""
        maps = {name: output[0] for name, output in zip(self.outputs, outputs, strict=True)}
        return Look(maps, maps.pop(CLASS_MAPS, None), self.stages)


class Studies:
    """The study files of the folder's models. Event loops call it; one thread of its own loads files, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, Study] = OrderedDict()
        self._loading: dict[str, Future[Study]] = {}
        self._with_class_maps: dict[str, tuple[tuple[int, int], bool]] = {}  # by name, with the file's stamp
        self._loader: ThreadPoolExecutor | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> list[str]:
        """The names of the models whose study file is in memory, least recently used first."""
        return list(self._loaded)

    async def get(self, info: ModelInfo) -> Study:
        """Return the study file of a ready model, loaded.

        Raises:
            NoStudy: there is none, or it shows nothing, or it is of other weights than the model.
            DeadlineExceeded: it is not loaded in time.
        """
        stamp = await self._stamp(info)
        found = self._loaded.get(info.name)
        if found is None or found.stamp != stamp or _other_weights(found.model.info, info):
            found = await self._load(info)
        found.used = time.monotonic()
        if info.name in self._loaded:
            self._loaded.move_to_end(info.name)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE, self._close_idle, asyncio.get_running_loop())
        return found

    async def has_class_maps(self, info: ModelInfo) -> bool:
        """Tell whether a ready model's study file returns class activation maps; each file is loaded once for that.

        Raises DeadlineExceeded, as `get` does.
        """
        try:
            known, found = self._with_class_maps.get(info.name, (None, False))
            if known != await self._stamp(info):
                found = CLASS_MAPS in (await self.get(info)).outputs
        except NoStudy:
            return False
        return found

    async def _stamp(self, info: ModelInfo) -> tuple[int, int]:
        return await asyncio.to_thread(_stamp, self._settings.models / info.name / FILE)

    async def _load(self, info: ModelInfo) -> Study:
        loading = self._loading.get(info.name)
        if loading is None:
            loading = self._submit(load, self._settings.models / info.name, info)
            self._loading[info.name] = loading
        try:
            # Shielded: others may wait for the same file.
            found = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(loading)), self._settings.timeout)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            if loading.done():
                self._loading.pop(info.name, None)
        self._loaded[info.name] = found
        self._with_class_maps[info.name] = found.stamp, CLASS_MAPS in found.outputs
        if len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)
            self._submit(give_back_memory)
        return found

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        idle = [name for name, study in self._loaded.items() if now - study.used >= IDLE]
        for name in idle:
            del self._loaded[name]
        if idle:
            self._submit(give_back_memory)
        left = [IDLE - (now - study.used) for study in self._loaded.values()]
        self._timer = loop.call_later(min(left), self._close_idle, loop) if left else None

    def _submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._loader is None:
            self._loader = ThreadPoolExecutor(1, "study")
        return self._loader.submit(work, *arguments)

    def close(self) -> None:
        """Forget all files, and end the thread after what it is loading. They may be loaded again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loader is not None:
            self._loader.shutdown(cancel_futures=True)
        self._loaded.clear()
        self._loading.clear()
        self._timer = self._loader = None


def load(folder: Path, info: ModelInfo) -> Study:
    """Load the study file in a model's folder.

    Raises:
        NoStudy: it cannot be used; the message says why.
    """
    stamp = _stamp(folder / FILE)
    try:
        session = open_session(folder / FILE, 1)
        metadata = session.get_modelmeta().custom_metadata_map
        stages = [_stage(entry) for entry in json.loads(metadata["stages"])]
        outputs = tuple(output.name for output in session.get_outputs())
    except Exception as error:  # ONNX Runtime raises many classes, which have only this one in common
        raise NoStudy(f"the study file of {info.name} does not load: {type(error).__name__}") from error
    if not stages:
        raise NoStudy(f"nothing of {info.name} can be shown: {metadata.get('reason', 'its study file is empty')}")
    looked = replace(info, name=f"{info.name}.study", metadata=dict(metadata), precision="fp32", device="cpu")
    if _other_weights(looked, info):
        raise NoStudy(f"the study file of {info.name} is of other weights; {_build(folder)} builds it again")
    if tuple(stage.name for stage in stages) != STAGES or outputs not in (STAGES, (*STAGES, CLASS_MAPS)):
        raise NoStudy(f"the study file of {info.name} has other outputs: {', '.join(outputs)}")
    return Study(Model(looked, session, session, outputs=outputs), stages, outputs, stamp)


def _stage(entry: dict[str, Any]) -> Stage:
    channels, height, width = map(int, entry["shape"])
    rows, columns = ([(int(first), int(last)) for first, last in entry[axis]] for axis in ("rows", "columns"))
    classes = list(zip(*entry.get("classes", []), strict=True))
    if (len(rows), len(columns), len(entry["filters"])) != (height, width, channels):
        raise ValueError("the metadata do not fit each other")
    return Stage(entry["name"], entry["layer"], (channels, height, width), rows, columns, classes, entry["filters"])


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise NoStudy(f"there is no {FILE} of {path.parent.name} yet; {_build(path.parent)} builds it") from None
    return status.st_mtime_ns, status.st_size


def _build(folder: Path) -> str:
    return f"python train/export.py --missing {folder.parent.name}/{folder.name}"


def _other_weights(study: ModelInfo, model: ModelInfo) -> bool:
    key = "safetensors_sha256"
    return study.metadata.get(key) != model.metadata.get(key)
