"""POST /classify/{model}: classify an image."""

import time
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from serve.engine.batching import Engine
from serve.engine.models import Scores
from serve.engine.queues import ranked
from serve.errors import ApiError, BadRequest
from serve.http.bodies import SMALL, Bodies
from serve.http.connections import ClientWaits
from serve.http.forms import without_charset
from serve.http.gate import RECORD
from serve.images.decoder import Decoder

TOP = 5


class Classify:
    """The route's handler. It takes the bare request: FastAPI's parsing would cost more than all of this."""

    def __init__(self, engine: Engine, bodies: Bodies, decoder: Decoder) -> None:
        self._engine = engine
        self._bodies = bodies
        self._decoder = decoder

    async def post(self, request: Request) -> Response:
        """Classify the image of a request. Raises ApiError: 400, 404, 408, 413, 415, 422, 503, 504."""
        deadline = time.monotonic() + self._engine.settings.timeout
        name = request.path_params["model"]
        record = request.scope[RECORD]
        record.route = "classify"
        info = self._engine.repository.get(name).info
        record.model = name
        top = _top(request.query_params.get("top_k") if request.scope["query_string"] else None)
        async with self._bodies.read(request) as body:
            data = await _image(request, body)
            async with ClientWaits(request.receive):
                images = await self._decoder(data, info.image_size, timeout=deadline - time.monotonic())
                result = await self._engine.infer(name, images, timeout=deadline - time.monotonic())
        best = predictions(result.model.labels, result.probabilities[0], top)
        return Response(orjson.dumps({"model": name, "predictions": best}), media_type="application/json")


def predictions(labels: Sequence[str], probabilities: Scores, most: int | None = None) -> list[dict[str, Any]]:
    """List label, index and probability of the `most` best classes (None: of all) of float32 [classes], best first."""
    return [
        {"label": labels[index], "index": index, "probability": float(probabilities[index])}
        for index in ranked(probabilities, most)
    ]


def _top(text: str | None) -> int:
    if text is None:
        return TOP
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ApiError(422, f"top_k is {text!r:.50}; valid is a whole number from 1")
    return int(text)


async def _image(request: Request, body: bytes) -> bytes:
    """Return the raw body, or the content of the field `file` of a form."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    # Starlette raises HTTPException 400 if the form is broken.
    scope = {**request.scope, "headers": without_charset(request.scope["headers"])}
    async with Request(scope, replay).form(max_files=1, max_fields=8, max_part_size=SMALL) as form:
        file = form.get("file")
        if file is None:
            raise BadRequest(f"the form has no field 'file'; it has: {', '.join(form) or 'none'}"[:300])
        if isinstance(file, str):
            raise BadRequest("the form's field 'file' holds text; it must be a file, with a filename")
        return await file.read()
