"""The Open Inference Protocol apart from its carriers: what REST (v2.py) and gRPC (grpc/) have in common."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from serve.engine.batching import Engine
from serve.engine.models import OUTPUTS, ModelInfo
from serve.engine.queues import Result
from serve.errors import ApiError, Forbidden, NotReady, Overloaded
from serve.images.decoder import Decoder
from serve.images.formats import READERS
from serve.routes.files import in_turn
from serve.routes.v2_tensors import Request

NAME = "deep-image-zoo"
EXTENSIONS = [
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics",
]  # fmt: skip
# A folder holds one version of a model; the SHA-256 in its metadata identifies the weights.
VERSION = "1"
# Most requests that may wait for a model to be loaded or unloaded.
MAX_CHANGES = 64


class DataPlane:
    """What the protocol's routes do. All methods raise ApiError, and describe things as the protocol's JSON does."""

    def __init__(self, engine: Engine, decoder: Decoder, version: str) -> None:
        self.engine = engine
        self._decoder = decoder
        self._version = version
        # Models are loaded and unloaded one after another, in a thread of their own: waiting in a shared thread pool
        # would hold up other requests.
        self._changes = ThreadPoolExecutor(1, "change")
        self._waiting = 0

    def server(self) -> dict[str, Any]:
        """Describe the server."""
        return {"name": NAME, "version": self._version, "extensions": EXTENSIONS}

    def check_ready(self, *, strict: bool = False) -> None:
        """Raise NotReady unless every model was tried and one is ready; with `strict`, unless all are."""
        why = self.engine.unready
        if not why and strict and (missing := self.engine.repository.missing()):
            why = f"not loaded: {', '.join(missing)}"
        if why:
            raise NotReady(f"not ready: {why}")

    def info(self, name: str, version: str = VERSION) -> ModelInfo:
        """Return a ready model's description; 404 if there is no such model or version, 503 if it is not ready."""
        info = self.engine.repository.get(name).info
        if version != VERSION:
            raise ApiError(404, f"unknown version {version!r:.50} of {info.name}; valid is {VERSION!r}")
        return info

    def model(self, info: ModelInfo) -> dict[str, Any]:
        """Describe a model's tensors and metadata."""
        shape = list(info.image_size)
        classes = len(info.labels)
        return {
            "name": info.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *shape]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, classes]} for name in OUTPUTS],
            # Clients expect one entry for each input, so the other datatype of `image` is stated here. So is the output
            # that a request gets only by its name.
            "parameters": {
                **info.metadata,
                "served_precision": info.precision,
                "device": info.device,
                "image_as_bytes": f"datatype BYTES, shape [-1]: {', '.join(READERS)} files; in JSON as base64",
                "abstained": "an output for requests that name it: datatype BOOL, shape [-1]",
            },
        }

    def config(self, info: ModelInfo) -> dict[str, Any]:
        """Describe a model in the form of Triton's configuration."""
        settings = self.engine.settings
        return {
            "name": info.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": settings.max_images,
            "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": list(info.image_size)}],
            "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [len(info.labels)]} for name in OUTPUTS],
            "dynamic_batching": {"preferred_batch_size": [settings.max_batch]},
        }

    def statistics(self, name: str = "", version: str = VERSION) -> dict[str, Any]:
        """List the statistics of a model, or of all ready models, since each was loaded."""
        if name:
            self.info(name, version)
        models = {name: self.engine.repository.get(name)} if name else self.engine.repository.ready()
        return {
            "model_stats": [
                {"name": model.info.name, "version": VERSION, **model.statistics.render()}
                for _, model in sorted(models.items())
            ]
        }

    async def infer(self, info: ModelInfo, message: Request, *, began: float) -> Result:
        """Run a model on the images of a request that began at `began`, on the monotonic clock."""
        deadline = began + self.engine.settings.timeout
        if message.seconds is not None:
            deadline = min(deadline, began + message.seconds)
        images = message.images
        if isinstance(images, list):
            images = np.concatenate(
                await in_turn(
                    images, lambda data, seconds: self._decoder(data, info.image_size, timeout=seconds), deadline
                )
            )
        return await self.engine.infer(info.name, images, timeout=deadline - time.monotonic())

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """List all models and their states."""
        return [
            {"name": entry.name, "version": VERSION, "state": entry.state, "reason": entry.reason}
            for entry in self.engine.repository.index()
            if entry.state == "READY" or not only_ready
        ]

    def check_control(self) -> None:
        """Raise Forbidden unless requests may load and unload models."""
        if self.engine.settings.model_control == "none":
            raise Forbidden("requests may not load or unload models; start the server with --model-control explicit")

    async def load(self, name: str) -> None:
        """Load or reload a model."""
        await self._change(self.engine.repository.load, name)

    async def unload(self, name: str) -> None:
        """Unload a model."""
        await self._change(self.engine.repository.unload, name)

    async def _change(self, change: Callable[[str], None], name: str) -> None:
        self.check_control()
        if self._waiting >= MAX_CHANGES:
            raise Overloaded("too many requests wait to load or unload models")
        self._waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._changes, change, name)
        finally:
            self._waiting -= 1
