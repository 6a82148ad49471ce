"""POST /classify/{model}: classify an image, or several."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.engine.batching import Engine
from serve.engine.models import Images, ModelInfo, Scores
from serve.engine.queues import ranked
from serve.errors import ApiError, BadRequest
from serve.http.bodies import Bodies
from serve.http.connections import ClientWaits
from serve.http.forms import is_form, read_form
from serve.http.gate import RECORD
from serve.images.decoder import Decoder
from serve.images.digits import SIDE
from serve.routes.files import in_turn

TOP = 5
INKS = ("as-is", "auto")


@dataclass(frozen=True, slots=True)
class Options:
    """What the query of a request chooses.

    Attributes:
        top: how many classes to list.
        find_ink: whether to prepare digits as the app does.
    """

    top: int = TOP
    find_ink: bool = False


class Classify:
    """The route's handler. It takes the bare request: FastAPI's parsing would cost more than all of this."""

    def __init__(self, engine: Engine, bodies: Bodies, decoder: Decoder) -> None:
        self._engine = engine
        self._bodies = bodies
        self._decoder = decoder

    async def post(self, request: Request) -> Response:
        """Classify the image or images of a request. Raises ApiError: 400, 404, 408, 413, 415, 422, 503, 504."""
        deadline = time.monotonic() + self._engine.settings.timeout
        name = request.path_params["model"]
        record = request.scope[RECORD]
        record.route = "classify"
        info = self._engine.repository.get(name).info
        record.model = name
        options = _options(request, info) if request.scope["query_string"] else Options()
        async with self._bodies.read(request) as body:
            files = await _files(request, body, self._engine.settings.max_images)
            del body  # a form's files are copies
            async with ClientWaits(request.receive):
                results = await self._classify(info, files, options, deadline)
        message = {"model": name, **results[0]} if len(results) == 1 else {"model": name, "results": results}
        return Response(orjson.dumps(message), media_type="application/json")

    async def _classify(
        self, info: ModelInfo, files: Sequence[bytes], options: Options, deadline: float
    ) -> list[dict[str, Any]]:
        """Return a result for each file, in order."""
        if not options.find_ink:
            images = await in_turn(
                files, lambda data, seconds: self._decoder(data, info.image_size, timeout=seconds), deadline
            )
            return await self._predict(info, images, options.top, deadline)
        digits = await in_turn(files, lambda data, seconds: self._decoder.digit(data, timeout=seconds), deadline)
        prepared = [digit.pixels[None] for digit in digits if digit.pixels is not None]
        found = iter(await self._predict(info, prepared, options.top, deadline) if prepared else [])
        nothing = {"predictions": [], "abstained": True}
        return [{**(nothing if digit.pixels is None else next(found)), "problem": digit.problem} for digit in digits]

    async def _predict(
        self, info: ModelInfo, images: Sequence[Images], top: int, deadline: float
    ) -> list[dict[str, Any]]:
        """Return the predictions for each image, uint8 [1, H, W, C], and whether the model abstains from an answer."""
        batch = images[0] if len(images) == 1 else np.concatenate(images)
        result = await self._engine.infer(info.name, batch, timeout=deadline - time.monotonic())
        return [
            {"predictions": predictions(result.model.labels, row, top), "abstained": abstained}
            for row, abstained in zip(result.probabilities, result.abstained.tolist(), strict=True)
        ]


def predictions(labels: Sequence[str], probabilities: Scores, most: int | None = None) -> list[dict[str, Any]]:
    """List label, index and probability of the `most` best classes (None: of all) of float32 [classes], best first."""
    return [
        {"label": labels[index], "index": index, "probability": float(probabilities[index])}
        for index in ranked(probabilities, most)
    ]


def _options(request: Request, info: ModelInfo) -> Options:
    query = request.query_params
    ink = query.get("ink", INKS[0])
    if ink not in INKS:
        raise ApiError(422, f"ink is {ink!r:.50}; valid are {', '.join(INKS)}")
    if ink == "auto" and info.image_size != (SIDE, SIDE, 1):
        raise ApiError(422, f"ink=auto is for models of digits; {info.name} takes images of {info.image_size}")
    return Options(_top(query.get("top_k")), ink == "auto")


def _top(text: str | None) -> int:
    if text is None:
        return TOP
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ApiError(422, f"top_k is {text!r:.50}; valid is a whole number from 1")
    return int(text)


async def _files(request: Request, body: bytes, most: int) -> list[bytes]:
    """Return the raw body, or the contents of the fields `file` of a form."""
    content_type = request.headers.get("content-type", "")
    if not is_form(content_type):
        return [body]
    parts = await read_form(body, content_type, max_files=most)
    found = [part for part in parts if part.name == "file"]
    if not found:
        names = ", ".join(part.name for part in parts) or "none"
        raise BadRequest(f"the form has no field 'file'; it has: {names}"[:300])
    if any(part.filename is None for part in found):
        raise BadRequest("the form's field 'file' holds text; it must be a file, with a filename")
    return [part.content for part in found]
