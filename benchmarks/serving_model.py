"""The parts that the other servers and the bare loop share: the session, the decoder and the response."""

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
    """Load the model at $SERVING_MODEL on the CPU, with ONNX Runtime's defaults except for exact int8."""
    options = onnxruntime.SessionOptions()
    if not has_int8_dot_product():  # without it, int8 sums overflow
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])


def decode(data: bytes) -> np.ndarray:
    """Decode an image to uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def labels(network: onnxruntime.InferenceSession) -> list[str]:
    return [str(label) for label in json.loads(network.get_modelmeta().custom_metadata_map["labels"])]


def run(network: onnxruntime.InferenceSession, images: list[np.ndarray]) -> np.ndarray:
    """Compute probabilities, float32 [n, classes]."""
    return np.asarray(network.run(["probabilities"], {"image": np.stack(images)})[0])


def response(names: list[str], probabilities: np.ndarray) -> dict[str, Any]:
    """Build the response of /classify: the five best classes."""
    best = probabilities.argsort()[::-1][:5]
    return {
        "predictions": [
            {"label": names[index], "index": int(index), "probability": float(probabilities[index])} for index in best
        ]
    }
