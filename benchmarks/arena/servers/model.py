"""The parts that the other servers and the bare loop share: the session, the decoder and the response."""

import io
import json
import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
from PIL import Image

from serve.engine.processor import has_int8_dot_product, usable_cores

PATH = os.environ.get("SERVING_MODEL", "")
BATCH = 32
# Seconds that a request may wait for others, in servers that form batches by waiting.
WAIT = 0.002


def session() -> onnxruntime.InferenceSession:
    """Load the model at $SERVING_MODEL on the CPU, with a thread for each core and exact int8."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    if not has_int8_dot_product():  # without it, int8 sums overflow
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])


def decode(data: bytes) -> np.ndarray:
    """Decode an image to uint8 [1, H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None]


def read(network: onnxruntime.InferenceSession, data: bytes) -> np.ndarray:
    """Read a request's body, an image file or the bytes of uint8 [n, H, W, 3]."""
    if data.startswith(b"\x89PNG"):
        return decode(data)
    return np.frombuffer(data, np.uint8).reshape(-1, *network.get_inputs()[0].shape[1:])


def labels(network: onnxruntime.InferenceSession) -> list[str]:
    return [str(label) for label in json.loads(network.get_modelmeta().custom_metadata_map["labels"])]


def run(network: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Compute probabilities, float32 [n, classes]."""
    return np.asarray(network.run(["probabilities"], {"image": images})[0])


def run_all(network: onnxruntime.InferenceSession, requests: list[np.ndarray]) -> list[np.ndarray]:
    """Run the images of several requests at once, and return each request's probabilities."""
    found = run(network, np.concatenate(requests))
    return np.split(found, np.cumsum([len(images) for images in requests])[:-1])


def response(names: list[str], probabilities: np.ndarray) -> dict[str, Any]:
    """Build the response: the five best classes of one image, or the probabilities of several."""
    if len(probabilities) > 1:
        return {"probabilities": probabilities.tolist()}
    row = probabilities[0]
    best = row.argsort()[::-1][:5]
    return {
        "predictions": [
            {"label": names[index], "index": int(index), "probability": float(row[index])} for index in best
        ]
    }
