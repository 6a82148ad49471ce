"""The Open Inference Protocol over HTTP, with binary tensors, classification and the model repository."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve import tracing
from serve.engine.models import ModelInfo
from serve.errors import ApiError, BadRequest
from serve.http.bodies import SMALL, Bodies
from serve.http.connections import ClientWaits
from serve.http.gate import RECORD
from serve.routes import v2_tensors
from serve.routes.data_plane import VERSION, DataPlane
from serve.routes.v2_requests import INDEX, LOAD, UNLOAD, Body
from serve.routes.v2_tensors import HEADER

T = TypeVar("T")

# `?strict` alone asks for it too.
STRICT = {"": True, "true": True, "1": True, "false": False, "0": False}


class V2:
    """The handlers of the routes under /v2. All raise ApiError with the statuses that serve/routes/table.py lists."""

    def __init__(self, plane: DataPlane, bodies: Bodies) -> None:
        self._plane = plane
        self._bodies = bodies
        self._max_images = plane.engine.settings.max_images

    async def server(self, request: Request) -> Response:
        """Describe the server."""
        request.scope[RECORD].route = "v2_server"
        return _json(self._plane.server())

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
        self._plane.check_ready(strict=STRICT[strict])
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """Describe a model's tensors and metadata."""
        return _json(self._plane.model(self._info(request, "v2_model")))

    async def config(self, request: Request) -> Response:
        """Describe a model in the form of Triton's configuration."""
        return _json(self._plane.config(self._info(request, "v2_config")))

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model is ready."""
        info = self._info(request, "v2_model_ready")
        return _json({"name": info.name, "ready": True})

    async def statistics(self, request: Request) -> Response:
        """List the statistics of a model."""
        return _json(self._plane.statistics(self._info(request, "v2_stats").name))

    async def all_statistics(self, request: Request) -> Response:
        """List the statistics of all models."""
        request.scope[RECORD].route = "v2_stats"
        return _json(self._plane.statistics())

    async def infer(self, request: Request) -> Response:
        """Run a model on the tensors of a request."""
        began = time.monotonic()
        info = self._info(request, "v2_infer")
        async with self._bodies.read(request) as body:
            message = await self._parse(request, body, info)
            del body  # encoded files are copies
            async with ClientWaits(request.receive):
                result = await self._plane.infer(info, message, began=began)
        with tracing.Part("encode"):
            content, json_length = v2_tensors.render(message, result, VERSION)
        headers = {} if json_length is None else {HEADER: str(json_length)}
        return _coded(content, headers, request.headers.get("accept-encoding", ""))

    async def _parse(self, request: Request, body: bytes, info: ModelInfo) -> v2_tensors.Request:
        header, most = request.headers.get(HEADER), self._max_images
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
        return _json(self._plane.index(only_ready=only_ready))

    async def load(self, request: Request) -> Response:
        """Load or reload a model."""
        request.scope[RECORD].route = "v2_load"
        return await self._change(request, LOAD, self._plane.load)

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        request.scope[RECORD].route = "v2_unload"
        return await self._change(request, UNLOAD, self._plane.unload)

    async def _change(self, request: Request, body: Body[T], change: Callable[[str], Awaitable[None]]) -> Response:
        self._plane.check_control()  # before the body is read
        await self._read(request, body)
        async with ClientWaits(request.receive):
            await change(request.path_params["model"])
        return _json({})

    def _info(self, request: Request, route: str) -> ModelInfo:
        record = request.scope[RECORD]
        record.route = route
        info = self._plane.info(request.path_params["model"], request.path_params.get("version", VERSION))
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
