"""What the other servers and the bare loop share: one session, one way to read a PNG, one answer."""

import io
import json
import os
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from serve.engine.processor import has_int8_dot_product

PATH = os.environ.get("SERVING_MODEL", "")


def session() -> onnxruntime.InferenceSession:
    """The model at $SERVING_MODEL on the CPU, with ONNX Runtime's defaults, but for exact int8."""
    options = onnxruntime.SessionOptions()
    if not has_int8_dot_product():  # else sums would run over: sooner, and not what the server computes
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])


def decode(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def labels(network: onnxruntime.InferenceSession) -> list[str]:
    return [str(label) for label in json.loads(network.get_modelmeta().custom_metadata_map["labels"])]


def run(network: onnxruntime.InferenceSession, images: list[np.ndarray]) -> np.ndarray:
    """Probabilities, float32 [n, classes]."""
    return np.asarray(network.run(["probabilities"], {"image": np.stack(images)})[0])


def answer(names: list[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The five best, as /classify says it."""
    best = probabilities.argsort()[::-1][:5]
    return {
        "predictions": [
            {"label": names[index], "index": int(index), "probability": float(probabilities[index])} for index in best
        ]
    }
