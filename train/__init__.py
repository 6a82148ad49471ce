"""From datasets to run folders, model cards and ONNX files: the commands, and the library below them."""

import atexit
import gc
import os
import sys
from types import TracebackType

# Nothing is reported to anybody. ONNX Runtime and the Hugging Face libraries read these when they are imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1")

# Modules of the extra `train`.
OF_THE_EXTRA = (
    "accelerate", "datasets", "filelock", "google", "huggingface_hub", "jinja2", "matplotlib", "numpy", "onnx",
    "onnxruntime", "onnxscript", "PIL", "platformdirs", "pyarrow", "pydantic", "scipy", "sympy", "tensorboard", "tqdm",
)  # fmt: skip


def _tell_what_is_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell of a package that is not installed in one line. What a command does not import need not be installed."""
    name = getattr(error, "name", None) or ""
    if issubclass(kind, ModuleNotFoundError) and name.partition(".")[0] in OF_THE_EXTRA:
        print(f"{name} is not installed: pip install 'deep-image-zoo[train]'", file=sys.stderr)
    else:
        _others(kind, error, trace)


_others, sys.excepthook = sys.excepthook, _tell_what_is_missing

# At the end Python would look for garbage among all objects of the imports, which takes a second.
atexit.register(gc.freeze)
