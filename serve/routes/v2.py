"""The Open Inference Protocol over HTTP, with binary tensors, classification and the model repository."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.engine.batching import Engine
from serve.engine.models import OUTPUTS, ModelInfo
from serve.errors import ApiError, BadRequest, Forbidden, NotReady, Overloaded
from serve.http.bodies import SMALL, Bodies
from serve.http.connections import ClientWaits
from serve.http.gate import RECORD
from serve.images.decoder import Decoder
from serve.images.formats import READERS
from serve.routes import v2_tensors
from serve.routes.files import in_turn
from serve.routes.v2_requests import INDEX, LOAD, UNLOAD, Body
from serve.routes.v2_tensors import HEADER

T = TypeVar("T")

NAME = "deep-image-zoo"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters"]
# A folder holds one version of a model; the SHA-256 in its metadata identifies the weights.
VERSION = "1"
# `?strict` alone asks for it too.
STRICT = {"": True, "true": True, "1": True, "false": False, "0": False}
# Most requests that may wait for a model to be loaded or unloaded.
MAX_CHANGES = 64


class V2:
    """The handlers of the routes under /v2. All raise ApiError with the statuses that serve/routes/table.py lists."""

    def __init__(self, engine: Engine, bodies: Bodies, decoder: Decoder, version: str) -> None:
        self._engine = engine
        self._bodies = bodies
        self._decoder = decoder
        self._version = version
        # Models are loaded and unloaded one after another, in a thread of their own: waiting in a shared thread pool
        # would hold up other requests.
        self._changes = ThreadPoolExecutor(1, "change")
        self._waiting = 0

    async def server(self, request: Request) -> Response:
        """Describe the server."""
        request.scope[RECORD].route = "v2_server"
        return _json({"name": NAME, "version": self._version, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """Tell that the process is alive."""
        request.scope[RECORD].route = "v2_live"
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Tell whether every model was tried and one is ready; with `?strict`, whether all are."""
        request.scope[RECORD].route = "v2_ready"
        strict = request.query_params.get("strict", "false")
        if strict not in STRICT:
            raise ApiError(422, f"strict is {strict!r:.50}; valid are true and false")
        why = self._engine.unready
        if not why and STRICT[strict] and (missing := self._engine.repository.missing()):
            why = f"not loaded: {', '.join(missing)}"
        if why:
            raise NotReady(f"not ready: {why}")
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """Describe a model's tensors and metadata."""
        info = self._info(request, "v2_model")
        shape = list(info.image_size)
        classes = len(info.labels)
        return _json(
            {
                "name": info.name,
                "versions": [VERSION],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *shape]}],
                "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, classes]} for name in OUTPUTS],
                # Clients expect one entry for each input, so the other datatype of `image` is stated here. So is the
                # output that a request gets only by its name.
                "parameters": {
                    **info.metadata,
                    "served_precision": info.precision,
                    "device": info.device,
                    "image_as_bytes": f"datatype BYTES, shape [-1]: {', '.join(READERS)} files; in JSON as base64",
                    "abstained": "an output for requests that name it: datatype BOOL, shape [-1]",
                },
            }
        )

    async def config(self, request: Request) -> Response:
        """Describe a model in the form of Triton's configuration."""
        info = self._info(request, "v2_config")
        return _json(
            {
                "name": info.name,
                "platform": "onnxruntime_onnx",
                "backend": "onnxruntime",
                "max_batch_size": self._engine.settings.max_images,
                "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": list(info.image_size)}],
                "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [len(info.labels)]} for name in OUTPUTS],
                "dynamic_batching": {"preferred_batch_size": [self._engine.settings.max_batch]},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model is ready."""
        info = self._info(request, "v2_model_ready")
        return _json({"name": info.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Run a model on the tensors of a request."""
        began = time.monotonic()
        deadline = began + self._engine.settings.timeout
        info = self._info(request, "v2_infer")
        async with self._bodies.read(request) as body:
            message = await self._parse(request, body, info)
            del body  # encoded files are copies
            if message.seconds is not None:
                deadline = min(deadline, began + message.seconds)
            async with ClientWaits(request.receive):
                images = message.images
                if isinstance(images, list):
                    images = np.concatenate(
                        await in_turn(
                            images,
                            lambda data, seconds: self._decoder(data, info.image_size, timeout=seconds),
                            deadline,
                        )
                    )
                result = await self._engine.infer(info.name, images, timeout=deadline - time.monotonic())
        content, json_length = v2_tensors.render(message, result, VERSION)
        headers = {} if json_length is None else {HEADER: str(json_length)}
        return _coded(content, headers, request.headers.get("accept-encoding", ""))

    async def _parse(self, request: Request, body: bytes, info: ModelInfo) -> v2_tensors.Request:
        header, most = request.headers.get(HEADER), self._engine.settings.max_images
        length = v2_tensors.header_length(header, len(body))
        if header is not None and not length:
            return v2_tensors.parse_raw(body, info.image_size, max_images=most)
        parse = partial(v2_tensors.parse, body, length, info.image_size, max_images=most)
        # A BYTES tensor is copied and may be base64.
        return await asyncio.to_thread(parse) if max(length, len(body) - length) > SLOW else parse()

    async def index(self, request: Request) -> Response:
        """List all models and their states."""
        request.scope[RECORD].route = "v2_index"
        only_ready = (await self._read(request, INDEX)).get("ready", False)
        entries = self._engine.repository.index()
        return _json(
            [
                {"name": entry.name, "version": VERSION, "state": entry.state, "reason": entry.reason}
                for entry in entries
                if entry.state == "READY" or not only_ready
            ]
        )

    async def load(self, request: Request) -> Response:
        """Load or reload a model."""
        request.scope[RECORD].route = "v2_load"
        self._check_control()
        await self._read(request, LOAD)
        return await self._change(request, self._engine.repository.load)

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        request.scope[RECORD].route = "v2_unload"
        self._check_control()
        await self._read(request, UNLOAD)
        return await self._change(request, self._engine.repository.unload)

    def _check_control(self) -> None:
        if self._engine.settings.model_control == "none":
            raise Forbidden("requests may not load or unload models; start the server with --model-control explicit")

    async def _change(self, request: Request, change: Callable[[str], None]) -> Response:
        if self._waiting >= MAX_CHANGES:
            raise Overloaded("too many requests wait to load or unload models")
        self._waiting += 1
        try:
            async with ClientWaits(request.receive):
                await asyncio.get_running_loop().run_in_executor(self._changes, change, request.path_params["model"])
        finally:
            self._waiting -= 1
        return _json({})

    def _info(self, request: Request, route: str) -> ModelInfo:
        record = request.scope[RECORD]
        record.route = route
        version = request.path_params.get("version", VERSION)
        info = self._engine.repository.get(request.path_params["model"]).info
        if version != VERSION:
            raise ApiError(404, f"unknown version {version!r:.50} of {info.name}; valid is {VERSION!r}")
        record.model = info.name
        return info

    async def _read(self, request: Request, body: Body[T]) -> T:
        """Read a small JSON body; an empty one counts as an empty object."""
        async with self._bodies.read(request) as data:
            if len(data) > SMALL:  # once parsed, JSON can take thirty times its bytes
                raise ApiError(413, f"{len(data):,} bytes of JSON are too many: at most {SMALL:,}")
            try:
                message = orjson.loads(data or b"{}")
            except orjson.JSONDecodeError as error:
                raise BadRequest(f"the request is not JSON: {error}") from None
        return body.check(message)


# Longer requests are parsed in another thread: a megabyte of numbers takes long enough to hold up other requests.
SLOW = 256 * 2**10


def _json(message: Any) -> Response:
    return Response(orjson.dumps(message), media_type="application/json")


def _coded(body: bytes, headers: dict[str, str], accepted: str) -> Response:
    """Compress a response for a client that accepts exactly one coding.

    A list of codings is only what a library sends by default, and small responses hardly shrink.
    """
    if accepted in ("gzip", "deflate"):
        body = gzip.compress(body, 1) if accepted == "gzip" else zlib.compress(body, 1)
        headers["content-encoding"] = accepted
    kind = "application/octet-stream" if HEADER in headers else "application/json"
    return Response(body, headers=headers, media_type=kind)
