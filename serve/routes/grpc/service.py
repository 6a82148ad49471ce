"""The methods of inference.GRPCInferenceService. What they do is in serve/routes/data_plane.py."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from serve import tracing
from serve.engine.models import ModelInfo
from serve.errors import ApiError, BadRequest, NotReady
from serve.routes.data_plane import VERSION, DataPlane
from serve.routes.grpc.calls import SLOW, Call, Calls, abort, beside, small
from serve.routes.grpc.messages import error_of, read_infer, request_of, response_of
from serve.routes.grpc.streams import Streams

SERVICE = "inference.GRPCInferenceService"
INFER = "ModelInfer"


class Service:
    """The service's methods, each from a message and its call to the response's message."""

    def __init__(self, plane: DataPlane, calls: Calls, streams: Streams) -> None:
        self._plane = plane
        self._calls = calls
        self._streams = streams
        self._max_images = plane.engine.settings.max_images

    def handlers(self) -> dict[str, Any]:
        """Build what the library calls for each method."""
        methods: dict[str, Any] = {
            "ServerLive": ("live", self._live, True),
            "ServerReady": ("ready", self._ready, True),
            "ServerMetadata": ("server", self._server, False),
            "ModelReady": ("model_ready", self._model_ready, False),
            "ModelMetadata": ("model", self._model, False),
            "ModelConfig": ("config", self._config, False),
            "ModelStatistics": ("stats", self._statistics, False),
            "RepositoryIndex": ("index", self._index, False),
            "RepositoryModelLoad": ("load", self._load, False),
            "RepositoryModelUnload": ("unload", self._unload, False),
        }
        unary = self._calls.unary
        handlers = {
            name: unary(f"/{SERVICE}/{name}", route, small(getattr(pb, f"{name}Request")), work, keyless=keyless)
            for name, (route, work, keyless) in methods.items()
        }
        handlers[INFER] = unary(f"/{SERVICE}/{INFER}", "infer", read_infer, self._infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return handlers

    async def _live(self, *_: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, *_: Any) -> Any:
        return pb.ServerReadyResponse(ready=not self._plane.engine.unready)

    async def _server(self, *_: Any) -> Any:
        return ParseDict(self._plane.server(), pb.ServerMetadataResponse())

    async def _model_ready(self, message: Any, call: Call) -> Any:
        try:
            self._info(message.name, message.version, call)
        except ApiError as error:
            if error.status != 404 and not isinstance(error, NotReady):
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model(self, message: Any, call: Call) -> Any:
        found = self._plane.model(self._info(message.name, message.version, call))
        # Triton's message has no parameters.
        return ParseDict(found, pb.ModelMetadataResponse(), ignore_unknown_fields=True)

    async def _config(self, message: Any, call: Call) -> Any:
        found = self._plane.config(self._info(message.name, message.version, call))
        return ParseDict({"config": found}, pb.ModelConfigResponse())

    async def _statistics(self, message: Any, call: Call) -> Any:
        name = self._info(message.name, message.version, call).name if message.name else ""
        return ParseDict(self._plane.statistics(name), pb.ModelStatisticsResponse())

    async def _index(self, message: Any, _: Call) -> Any:
        return ParseDict({"models": self._plane.index(only_ready=message.ready)}, pb.RepositoryIndexResponse())

    async def _load(self, message: Any, _: Call) -> Any:
        self._plane.check_control()
        if message.parameters:
            raise BadRequest("load takes no parameters: the model comes from the server's folder as it is")
        await self._plane.load(message.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, message: Any, _: Call) -> Any:
        await self._plane.unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def _infer(self, message: Any, call: Call) -> Any:
        began = time.monotonic()
        left = call.seconds_left
        info = self._info(message.model_name, message.model_version, call)
        read = partial(request_of, shape=info.image_size, max_images=self._max_images)
        request = await asyncio.to_thread(read, message) if message.ByteSize() > SLOW else read(message)
        del message
        if left is not None:
            request = replace(request, seconds=left if request.seconds is None else min(left, request.seconds))
        result = await self._plane.infer(info, request, began=began)
        with tracing.Part("encode"):
            return response_of(request, result, VERSION)

    def _info(self, name: str, version: str, call: Call) -> ModelInfo:
        info = self._plane.info(name, version or VERSION)
        call.record.model = info.name
        return info

    async def _stream(self, _: Any, context: Any) -> None:
        path = f"/{SERVICE}/ModelStreamInfer"
        opening = self._calls.open(context, "stream_infer", path)

        async def answer(body: bytes) -> bytes:
            call = self._calls.open(context, "stream_infer", path)
            name = ""

            async def work() -> bytes:
                nonlocal name
                async with self._calls.arrivals.room(body):
                    message = await beside(read_infer, body)
                    name = message.id
                    found = await self._infer(message, call)
                # A client that waits for several responses to a request sees that this is the last.
                found.parameters["triton_final_response"].bool_param = True
                return bytes(pb.ModelStreamInferResponse(infer_response=found).SerializeToString())

            try:
                return await self._calls.account(call, work())
            except ApiError as error:
                return bytes(error_of(name, error).SerializeToString())

        try:
            self._calls.check_key(opening)
            await self._streams.run(context, answer)
        except ApiError as error:
            await abort(opening, error)
