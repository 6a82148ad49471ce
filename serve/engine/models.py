"""From a folder with ONNX files to a model that runs. No other module opens ONNX Runtime sessions."""

import ctypes
import json
import logging
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from serve.engine import familiarity
from serve.engine.familiarity import Familiarity
from serve.engine.processor import has_fast_int8, has_int8_dot_product, has_int8_tiles, inference_cores
from serve.engine.statistics import Statistics
from serve.errors import ModelLoadError
from serve.settings import Settings

log = logging.getLogger("serve")
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
# The int8 model once more, with the same results, for processors with AMX. Folders may lack it.
AMX_FILE = "model.int8-amx.onnx"
# In ONNX's protocol buffers the key, and the length of the value that follows it, of the name of a file with weights.
LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])", re.DOTALL)
OUTPUTS = ("logits", "probabilities")
Images = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a ready model.

    Attributes:
        image_size: (H, W, C).
        accuracy: of the loaded file on the test split, in percent.
        abstain_below: the model does not answer where its highest probability is lower; None if none is too low.
        familiarity: tells the logits of images of its classes; None if the file does not state it.
    """

    name: str
    labels: list[str]
    image_size: tuple[int, int, int]
    accuracy: float | None
    precision: str
    device: str
    parameters: int | None
    metadata: Mapping[str, str] = field(repr=False)
    abstain_below: float | None = None
    familiarity: Familiarity | None = field(default=None, repr=False, compare=False)


class Model:
    """A loaded model. One thread at a time may call `run`; as many as there are cores may call `run_on_one_core`.

    Args:
        session: for runs on all cores.
        on_one_core: for runs side by side, on one core each; None where these bring nothing.
        sizes: the batch sizes that runs are padded to, ascending; empty if a run of any size needs no padding.
        outputs: the names of the tensors that a run returns.

    Attributes:
        single_image_seconds: how long a run of one image took in `warm`; infinite before that.
        statistics: of its requests and runs.
        shares_cores: whether runs side by side, on one core each, do more than runs on all cores, one after another.
    """

    def __init__(
        self,
        info: ModelInfo,
        session: onnxruntime.InferenceSession,
        on_one_core: onnxruntime.InferenceSession | None = None,
        sizes: tuple[int, ...] = (),
        outputs: tuple[str, ...] = OUTPUTS,
    ) -> None:
        self.info = info
        self.statistics = Statistics()
        self.single_image_seconds = math.inf
        self.shares_cores = on_one_core is not None
        self._session = session
        self._on_one_core = on_one_core or session
        self._sizes = sizes
        self._outputs = list(outputs)

    def warm(self, max_batch: int) -> None:
        """Make the first runs, which are slow: they allocate memory and, on a GPU, choose kernels."""
        for size in self._sizes or sorted({1, max_batch}):
            self.run(np.zeros((size, *self.info.image_size), np.uint8))
        for _ in range(3):
            began = time.perf_counter()
            self.run(np.zeros((1, *self.info.image_size), np.uint8))
            self.single_image_seconds = min(self.single_image_seconds, time.perf_counter() - began)
        if self.shares_cores:
            self.run_on_one_core(np.zeros((1, *self.info.image_size), np.uint8))

    def run(self, images: Images) -> tuple[Scores, ...]:
        """Run uint8 [n, H, W, C] on all cores; return each output, float32 [n, ...]."""
        return self._run(self._session, images)

    def run_on_one_core(self, images: Images) -> tuple[Scores, ...]:
        """Do what `run` does, but on the calling thread alone, beside other such runs."""
        return self._run(self._on_one_core, images)

    def _run(self, session: onnxruntime.InferenceSession, images: Images) -> tuple[Scores, ...]:
        count = len(images)
        size = next((size for size in self._sizes if size >= count), count)
        if size > count:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), np.uint8)])
        return tuple(output[:count] for output in session.run(self._outputs, {"image": images}))


def find(folder: Path) -> list[str]:
    """List the names of the models under `folder`: of every folder that holds weights or ONNX files.

    A folder that cannot be read is listed too, and loading it says why. Names that cannot be printed are left out. The
    list is empty if `folder` itself cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if _may_hold_model(entry))
    except OSError:
        return []


def _may_hold_model(folder: Path) -> bool:
    if not folder.name.isprintable():  # no request could name it
        return False
    try:
        return not {*FILES.values(), "model.safetensors"}.isdisjoint(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def load(folder: Path, settings: Settings) -> Model:
    """Load and warm the model in `folder`.

    Raises:
        ModelLoadError: it cannot be served; the message says why and what to do.
    """
    if settings.device != "cpu" and has_cuda():
        try:
            return _load(folder, settings, "cuda")
        except _CudaFailed as error:
            if settings.device == "cuda":
                raise ModelLoadError(f"device is 'cuda', but {error}") from error
            log.warning("%s; trying the CPU", error)
    elif settings.device == "cuda":
        raise ModelLoadError("device is 'cuda', but no CUDA device or no CUDA build of ONNX Runtime is here; use cpu")
    return _load(folder, settings, "cpu")


def _load(folder: Path, settings: Settings, device: str) -> Model:
    try:
        precision = _choose(folder, settings.precision, device)
        cores = inference_cores(settings)
        session = open_session(folder / FILES[precision], cores, device)
        info = _describe(folder.name, session, precision, device)
        if device == "cuda":
            model = Model(info, session, sizes=_padded_sizes(settings.max_batch))
        else:
            # For runs on one core alone: several cores share the other file's convolutions better.
            amx = _open_amx(folder, info)
            if cores == 1:
                model = Model(info, amx or session)
            else:
                model = Model(info, session, amx or open_session(folder / FILES[precision], 1, device))
        model.warm(settings.max_batch)
    except ModelLoadError:
        raise
    except Exception as error:  # ONNX Runtime raises many classes, which have only this one in common
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if device == "cuda":
            raise _CudaFailed(f"{folder} does not run on CUDA: {reason}") from error
        raise ModelLoadError(f"{folder} does not load: {reason}") from error
    return model


class _CudaFailed(Exception):
    """The model does not load or run on CUDA. It may do so on the CPU."""


def _choose(folder: Path, wanted: str, device: str) -> str:
    """Choose the precision to load. int8 is slower than fp32 on a GPU, and may be on CPUs older than AVX2."""
    present = [precision for precision, name in FILES.items() if (folder / name).is_file()]
    order = ("int8", "fp32") if device == "cpu" and has_fast_int8() else ("fp32", "int8")
    for precision in order if wanted == "auto" else (wanted,):
        if precision in present:
            return precision
    missing = FILES["fp32" if wanted == "auto" else wanted]
    raise ModelLoadError(f"{folder} has no {missing}; build it with: python train/export.py {folder}")


def has_cuda() -> bool:
    """Tell whether the driver reports a GPU. Whether ONNX Runtime can use it shows only when a session is opened."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _open_amx(folder: Path, info: ModelInfo) -> onnxruntime.InferenceSession | None:
    """Open the file for AMX on one core; None if the processor, the precision or the folder has none of that build."""
    if info.precision != "int8" or not has_int8_tiles() or not (folder / AMX_FILE).is_file():
        return None
    session = open_session(folder / AMX_FILE, 1)
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata != {**info.metadata, "variant": "amx"}:
        log.warning(
            "%s: %s is of another build than %s and is not used; rebuild it with: python train/export.py %s",
            folder.name, AMX_FILE, FILES["int8"], folder,
        )  # fmt: skip
        return None
    return session


def open_session(path: Path, cores: int, device: str = "cpu") -> onnxruntime.InferenceSession:
    """Open an ONNX file for runs on so many cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    # Threads that wait for each other within a run should spin rather than sleep, but not for long: they would take
    # cores from the thread that reads requests and from other processes.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    # On x86 without 8-bit dot products (VNNI), sums of two products could overflow, and the results would be worse than
    # the model's card states. With VNNI nothing overflows, and the kernels that prevent it would take twice the time.
    if not has_int8_dot_product():
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device == "cuda":
        onnxruntime.preload_dlls()
        # The default is an exhaustive search, repeated for every shape.
        providers.insert(0, ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}))
    # ONNX Runtime would map the files into memory: if one is cut short while it is in use, the process dies.
    files = _external_data(path)
    options.add_external_initializers_from_files_in_memory(
        list(files), list(files.values()), [len(content) for content in files.values()]
    )
    # Its fallback would silently open the session, or run it, on the CPU.
    session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=False)
    # get_available_providers() lists CUDA even if its libraries are missing; only a session shows it.
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime's CUDA provider did not load")
    return session


def _external_data(path: Path) -> dict[str, bytes]:
    """Read the files beside an ONNX file that hold its weights, by name; large models have such files."""
    model = path.read_bytes()
    names = {model[match.end() : match.end() + match[1][0]].decode() for match in LOCATION.finditer(model)}
    if outside := [name for name in names if Path(name).name != name]:
        raise ModelLoadError(f"{path}: its weights are in {outside[0]!r}; valid is a file in the same folder")
    return {name: (path.parent / name).read_bytes() for name in sorted(names)}


def _padded_sizes(max_batch: int) -> tuple[int, ...]:
    powers = [2**exponent for exponent in range(max_batch.bit_length()) if 2**exponent < max_batch]
    return (*powers, max_batch)


def _describe(name: str, session: onnxruntime.InferenceSession, precision: str, device: str) -> ModelInfo:
    """Check that the graph has the expected inputs and outputs, and read its metadata.

    Raises:
        ModelLoadError: it has others, or the metadata are missing or damaged.
    """
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    if set(inputs) != {"image"} or not set(OUTPUTS) <= set(outputs):
        raise ModelLoadError(
            f"{name}: inputs {sorted(inputs)} and outputs {sorted(outputs)}; wanted are ['image'] and {sorted(OUTPUTS)}"
        )
    shape = inputs["image"].shape
    whole = [size for size in shape[1:] if isinstance(size, int) and size > 0]
    if inputs["image"].type != "tensor(uint8)" or len(shape) != 4 or len(whole) != 3 or whole[2] not in (1, 3):
        raise ModelLoadError(
            f"{name}: input is {inputs['image'].type} {shape}; wanted is tensor(uint8) [batch, H, W, C] with C 1 or 3"
        )
    if isinstance(shape[0], int):
        raise ModelLoadError(f"{name}: its batch is fixed at {shape[0]}; it must be dynamic")
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    try:
        labels = [str(label) for label in json.loads(metadata.get("labels", ""))]
        accuracy = float(metadata["accuracy"]) if metadata.get("accuracy") else None
        parameters = int(metadata["parameters"]) if metadata.get("parameters") else None
        abstain_below = float(metadata["abstain_below"]) if metadata.get("abstain_below") else None
    except (ValueError, TypeError) as error:
        raise ModelLoadError(
            f"{name}: metadata labels, accuracy, parameters or abstain_below cannot be read: {error}"
        ) from error
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise ModelLoadError(f"{name}: abstain_below is {abstain_below}; valid is a probability from 0 to 1")
    classes = {outputs[output].shape[-1] for output in OUTPUTS}
    if classes != {len(labels)}:
        raise ModelLoadError(f"{name}: {len(labels)} labels for outputs of {sorted(map(str, classes))} classes")
    try:
        near = familiarity.parse(metadata["familiarity"], len(labels)) if metadata.get("familiarity") else None
    except ValueError as error:
        raise ModelLoadError(f"{name}: metadata familiarity cannot be read: {error}") from error
    height, width, channels = whole
    return ModelInfo(
        name=name,
        labels=labels,
        image_size=(height, width, channels),
        accuracy=accuracy,
        precision=precision,
        device=device,
        parameters=parameters,
        metadata=metadata,
        abstain_below=abstain_below,
        familiarity=near,
    )
