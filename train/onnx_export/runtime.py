"""Run an ONNX file on the CPU. All metrics of ONNX files are measured this way."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from train.training.results.predict import fitting_batch

BATCH = 100


def session_options() -> onnxruntime.SessionOptions:
    """Return a session's options: as many threads as torch has, and exact results on every processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # On x86 without 8-bit dot products (VNNI), ONNX Runtime's default int8 kernels let sums of two products overflow,
    # which costs up to 1.4 points on CIFAR-10. With VNNI nothing overflows, and this option would take several times
    # as long.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack it
    if not (capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")):
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return options


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    """Open a session whose results are exact on every processor."""
    return onnxruntime.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"])


def predict(file: Path | bytes, images: Tensor, batch_size: int | None = None) -> np.ndarray:
    """Compute the logits of an ONNX file, float32 [n, classes].

    Args:
        file: the ONNX file, or its content.
        images: uint8 [n, C, H, W].
        batch_size: images at a time; None for 100, or fewer large ones.
    """
    return logits(session(file), images.permute(0, 2, 3, 1).contiguous().numpy(), batch_size)


def logits(opened: onnxruntime.InferenceSession, pixels: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """Compute the logits of an open ONNX file, float32 [n, classes], of images uint8 [n, H, W, C]."""
    batch = batch_size or fitting_batch((pixels.shape[1], pixels.shape[2]), BATCH)
    batches = np.array_split(pixels, max(1, -(-len(pixels) // batch)))
    return np.concatenate([opened.run(["logits"], {"image": batch})[0] for batch in batches])
