"""The API's routes as one table: path, handler, response, errors and description of each."""

import re
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.engine.metrics import Metrics
from serve.http.gate import RECORD
from serve.http.routing import Handler
from serve.routes import openapi
from serve.routes.classify import Classify
from serve.routes.v2 import V2
from serve.routes.v2_requests import INDEX, INFER, LOAD, UNLOAD
from serve.routes.v2_tensors import HEADER

VERSION = {"version": openapi.path("version", "always 1", "1")}
MODEL = {"model": openapi.path("model", "a model's name, as POST /v2/repository/index lists it")}


def api_routes(classify: Classify, v2: V2, metrics: Metrics) -> list[Route]:
    """Build all routes except the app's."""
    router = APIRouter()

    def add(
        method: str,
        path: str,
        handler: Handler,
        summary: str,
        success: Any,
        *codes: int,
        parameters: tuple[dict[str, Any], ...] = (),
        body: dict[str, Any] | None = None,
        description: str | None = None,
    ) -> None:
        in_path = [(VERSION | MODEL)[name] for name in re.findall(r"{(\w+)}", path)]
        extra: dict[str, Any] = {"parameters": [*in_path, *parameters]}
        router.add_api_route(
            path,
            handler,
            methods=[method],
            summary=summary,
            description=description,
            operation_id=re.sub(r"\W+", "_", f"{method}{path}".lower()).strip("_"),
            tags=[path.split("/")[1]],
            responses={200: success if isinstance(success, dict) else {"model": success}, **openapi.errors(*codes)},
            response_model=None,
            openapi_extra=extra if body is None else {**extra, "requestBody": body},
        )

    bodies = (403, 408, 413, 415, 503)
    add("POST", "/classify/{model}", classify.post, "Classify an image, or several", openapi.CLASSIFIED,
        400, 404, *bodies, 422, 504, parameters=(openapi.TOP_K, openapi.INK), body=openapi.IMAGE,
        description="The image's centre square, resized to the model's input. Digits are expected as in MNIST: "
        "white on black, centred; with `?ink=auto` they may have any ink on any paper, and `problem` says what is "
        "unusual (`blank` and `dot` have no predictions). `abstained` says that the best probability is too low to "
        "rely on, or that the image is unlike those of all classes, by limits chosen at publishing. A form with "
        "several files `file` gets one result for each, in order, as `results`.")  # fmt: skip
    add("GET", "/v2", v2.server, "What this server is", openapi.ServerMetadata)
    add("GET", "/v2/health/live", v2.live, "Whether the process is alive", openapi.Live)
    add("GET", "/v2/health/ready", v2.ready, "Whether requests may be sent here", openapi.Ready, 422, 503,
        parameters=(openapi.STRICT,),
        description="Ready: every model of the folder was tried, and at least one is loaded. With `?strict`: all are. "
        "A server that shuts down is not ready.")  # fmt: skip
    # Before {model}: of a model that is named stats, only the routes with a version are left, as in Triton.
    add("GET", "/v2/models/stats", v2.all_statistics, "The statistics of all models", openapi.Statistics)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        add("GET", path, v2.model, "A model's tensors and metadata", openapi.ModelMetadata, 404, 503)
        add("GET", f"{path}/ready", v2.model_ready, "Whether a model is ready", openapi.ModelReady, 404, 503)
        add("GET", f"{path}/config", v2.config, "A model's configuration", openapi.ModelConfig, 404, 503)
        add("GET", f"{path}/stats", v2.statistics, "A model's statistics", openapi.Statistics, 404, 503)
        add("POST", f"{path}/infer", v2.infer, "Run a model", openapi.INFERENCE, 400, 404, *bodies, 504,
            parameters=(openapi.LENGTH,), body=openapi.json_body(INFER),
            description="The Open Inference Protocol: the tensor `image` as JSON, or raw after the JSON. Datatype "
            "UINT8 is pixels; BYTES is encoded image files, as base64 in JSON, and raw each after its length (four "
            f"bytes, little-endian). With {HEADER} 0 the body is raw pixels alone, and the response is binary.",
            )  # fmt: skip
    add("POST", "/v2/repository/index", v2.index, "All models and their states", list[openapi.IndexEntry], 400, *bodies,
        body=openapi.json_body(INDEX, required=False))  # fmt: skip
    add("POST", "/v2/repository/models/{model}/load", v2.load, "Load or reload a model", openapi.Empty, 400, 404,
        *bodies, body=openapi.json_body(LOAD, required=False))  # fmt: skip
    add("POST", "/v2/repository/models/{model}/unload", v2.unload, "Unload a model", openapi.Empty, 400, 404, *bodies,
        body=openapi.json_body(UNLOAD, required=False))  # fmt: skip

    async def render(request: Request) -> Response:
        request.scope[RECORD].route = "metrics"
        text, kind = metrics.render(request.headers.get("accept", ""))
        return Response(text, media_type=kind)

    add("GET", "/metrics", render, "Prometheus metrics", openapi.TEXT)
    return [route for route in router.routes if isinstance(route, Route)]
