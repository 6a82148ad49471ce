"""Triton with its Python backend, by pytriton: dynamic batches of up to 32 images, HTTP and gRPC."""

import os
import sys
from pathlib import Path

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from .model import BATCH, decode, run, session

# The Python that Triton embeds takes its standard library from the first `python3` there.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
network = session()
PROBABILITIES = [Tensor(name="probabilities", dtype=np.float32, shape=(-1,))]
# Triton batches what has queued up while the model runs; waiting for more is off, as by default.
CONFIG = ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher())


@batch
def files(image: np.ndarray) -> list[np.ndarray]:
    """Classify image files, [n, 1]."""
    return [run(network, np.concatenate([decode(data) for data in image[:, 0]]))]


@batch
def pixels(image: np.ndarray) -> list[np.ndarray]:
    """Classify uint8 [n, H, W, 3]."""
    return [run(network, image)]


if __name__ == "__main__":
    shape = tuple(network.get_inputs()[0].shape[1:])
    config = TritonConfig(
        http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), http_address="127.0.0.1", grpc_address="127.0.0.1",
        allow_metrics=False, exit_on_error=True,
    )  # fmt: skip
    with Triton(config=config) as server:
        server.bind("files", files, [Tensor(name="image", dtype=bytes, shape=(1,))], PROBABILITIES, config=CONFIG)
        server.bind("pixels", pixels, [Tensor(name="image", dtype=np.uint8, shape=shape)], PROBABILITIES, config=CONFIG)
        server.serve()
