"""The API's description at /docs: responses, parameters and errors.

The JSON of requests is described where it is checked, in serve/routes/v2_requests.py.
FastAPI takes no part in reading requests and writing responses, so it has to be told about them.
"""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, Field

from serve.routes.classify import INKS, TOP
from serve.routes.v2 import STRICT as STRICT_VALUES
from serve.routes.v2_requests import Body
from serve.routes.v2_tensors import HEADER


class Error(BaseModel):
    """Every response other than a success."""

    error: str = Field(description="what is wrong, and what would be right")


class Prediction(BaseModel):
    """A class and its probability."""

    label: str
    index: int
    probability: float = Field(ge=0, le=1)


ABSTAINED = (
    "the best probability is below the model's abstain_below, the image is unlike those of all classes, or there is no "
    "digit: do not rely on the best class"
)


class Classification(BaseModel):
    """The response of /classify."""

    model: str
    predictions: list[Prediction] = Field(description="best first")
    abstained: bool = Field(description=ABSTAINED)
    problem: str | None = Field(None, description="with ink=auto: blank, dot, several, scribble or null")


class FileResult(BaseModel):
    """The result for one of several files."""

    predictions: list[Prediction] = Field(description="best first")
    abstained: bool = Field(description=ABSTAINED)
    problem: str | None = Field(None, description="with ink=auto: blank, dot, several, scribble or null")


class Classifications(BaseModel):
    """The response of /classify to several files."""

    model: str
    results: list[FileResult] = Field(description="one for each file, in order")


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the process is alive."""

    live: bool


class Ready(BaseModel):
    """Whether requests may be sent here."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor of a model."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size")


class ModelMetadata(BaseModel):
    """A model's tensors and metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str]


class ConfigTensor(BaseModel):
    """A tensor in a model's configuration."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """A model's configuration, in Triton's form."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: dict[str, list[int]]


class Duration(BaseModel):
    """How often, and for how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStatistics(BaseModel):
    """Durations of requests."""

    success: Duration = Field(description="requests that succeeded, from the queue to the result")
    fail: Duration = Field(description="requests that were refused by the queue, late, cancelled or failed")
    queue: Duration = Field(description="waiting for a run")
    compute_input: Duration = Field(description="joining the images of a batch")
    compute_infer: Duration = Field(description="runs of the model")
    compute_output: Duration = Field(description="separating the results")
    cache_hit: Duration = Field(description="always 0")
    cache_miss: Duration = Field(description="always 0")


class BatchStatistics(BaseModel):
    """Durations of the runs of one batch size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """A model's statistics since it was loaded."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970; 0: never")
    inference_count: int = Field(description="images")
    execution_count: int = Field(description="runs")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class Statistics(BaseModel):
    """Statistics in Triton's form."""

    model_stats: list[ModelStatistics]


class OutputTensor(BaseModel):
    """An output, as JSON or as raw bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[bool] | list[float] | list[str] | None = None
    parameters: dict[str, int] | None = None


class Inference(BaseModel):
    """The response of an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Empty(BaseModel):
    """An empty object."""


class IndexEntry(BaseModel):
    """A model and its state."""

    name: str
    version: str
    state: str
    reason: str


REASONS = {
    400: "the request is wrong",
    403: "a page of another origin, or a change that --model-control does not allow",
    404: "unknown model",
    408: "the body did not arrive in time",
    413: "too many bytes, pixels or images",
    415: "a format or coding that is not supported",
    422: "a parameter is wrong",
    503: "not ready, or overloaded: try again after Retry-After seconds",
    504: "no result in time",
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error responses of a route."""
    return {code: {"model": Error, "description": REASONS[code]} for code in codes}


TOP_K: dict[str, Any] = {
    "name": "top_k",
    "in": "query",
    "required": False,
    "description": "how many classes the response lists",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": TOP},
}
INK: dict[str, Any] = {
    "name": "ink",
    "in": "query",
    "required": False,
    "description": "for models of digits; auto: find the digit's ink, dark or light, and prepare it as the app does",
    "schema": {"type": "string", "enum": list(INKS), "default": INKS[0]},
}
STRICT: dict[str, Any] = {
    "name": "strict",
    "in": "query",
    "required": False,
    "allowEmptyValue": True,
    "description": "ready only if all models are loaded",
    "schema": {"type": "string", "enum": list(STRICT_VALUES), "default": "false"},
}
LENGTH: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "length of the JSON in bytes, if raw tensors follow it; 0: the body is one raw tensor",
    "schema": {"type": "integer", "minimum": 0},
}
IMAGE: dict[str, Any] = {
    "required": True,
    "description": "PNG, JPEG, WebP, AVIF, GIF (first frame) or BMP (no run lengths), as the body, or one or several "
    "in the form's field `file`",
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
                },
            }
        },
    },
}
CLASSIFIED: dict[str, Any] = {"model": Classification | Classifications, "description": "the predictions"}
TEXT: dict[str, Any] = {
    "description": "text, or OpenMetrics for a client that accepts it",
    "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")},
}
INFERENCE: dict[str, Any] = {
    "model": Inference,
    "description": "the scores, as JSON or as raw tensors after the JSON",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


def path(name: str, text: str, example: str | None = None) -> dict[str, Any]:
    """Describe a parameter that is a part of the path."""
    found: dict[str, Any] = {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "minLength": 1},
    }
    return found if example is None else {**found, "example": example}


def json_body(body: Body[Any], *, required: bool = True) -> dict[str, Any]:
    """Describe a JSON body."""
    return {"required": required, "content": {"application/json": {"schema": body.schema()}}}


def with_key(description: dict[str, Any], free: Collection[str]) -> dict[str, Any]:
    """Add to the description that all paths except those in `free` need a key."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "any user name, the key as the password"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    description["components"]["securitySchemes"] = schemes
    description["security"] = [{name: []} for name in schemes]
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in description["paths"].items():
        for operation in operations.values():
            if path in free:
                operation["security"] = []
            else:
                operation["responses"]["401"] = {"description": "the key is missing or wrong", "content": content}
    return description
