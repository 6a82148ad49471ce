"""Run an ONNX file on the CPU. All metrics of ONNX files are measured this way."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

BATCH = 100


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    """Open a session whose results are exact on every processor."""
    options = onnxruntime.SessionOptions()
    # On x86 without 8-bit dot products (VNNI), ONNX Runtime's default int8 kernels let sums of two products overflow,
    # which costs up to 1.4 points on CIFAR-10. With VNNI nothing overflows, and this option would take several times
    # as long.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack it
    if not (capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")):
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def predict(file: Path, images: Tensor) -> np.ndarray:
    """Logits of an ONNX file, float32 [n, classes], for images uint8 [n, C, H, W]."""
    opened = session(file)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    batches = np.array_split(pixels, max(1, len(pixels) // BATCH))
    return np.concatenate([opened.run(["logits"], {"image": batch})[0] for batch in batches])
