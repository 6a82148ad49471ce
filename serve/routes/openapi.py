"""The API's description of bodies, which the routes read and write without FastAPI."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, Field

from serve.engine.models import OUTPUTS
from serve.routes.classify import TOP
from serve.routes.v2_tensors import HEADER


class Error(BaseModel):
    """Every answer other than a success."""

    error: str = Field(description="what is wrong, and what would be right")


class Prediction(BaseModel):
    label: str
    index: int
    probability: float = Field(ge=0, le=1)


class Classification(BaseModel):
    model: str
    predictions: list[Prediction] = Field(description="best first")


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str]


class ConfigTensor(BaseModel):
    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: dict[str, list[int]]


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str] | None = None
    parameters: dict[str, int] | None = None


class Inference(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Empty(BaseModel):
    pass


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


REASONS = {
    400: "the request is wrong",
    404: "unknown model",
    408: "the body did not arrive in time",
    413: "too many bytes, pixels or images",
    415: "a format or coding that is not supported",
    422: "a parameter is wrong",
    503: "not ready, or overloaded: try again after Retry-After seconds",
    504: "no result in time",
}
OBJECT: dict[str, Any] = {"type": "object"}
JSON_NUMBERS: dict[str, Any] = {
    "type": "array",
    "description": "flat, or nested like the shape",
    "items": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "array", "items": {}}]},
}
OUTPUT_PARAMETERS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {
        "binary_data": {"type": "boolean"},
        "classification": {"type": "integer", "minimum": 0, "description": "answer with the best classes as text"},
    },
}
INFER: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "parameters": {
            "type": ["object", "null"],
            "properties": {
                "binary_data_output": {"type": "boolean"},
                "timeout": {"type": "integer", "minimum": 0, "description": "microseconds"},
            },
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"const": "image"},
                    "shape": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1},
                        "minItems": 4,
                        "maxItems": 4,
                        "description": "[n, H, W, C], as in the model's metadata",
                    },
                    "datatype": {"const": "UINT8"},
                    "data": JSON_NUMBERS,
                    "parameters": {
                        "type": ["object", "null"],
                        "properties": {"binary_data_size": {"type": "integer", "minimum": 1}},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": list(OUTPUTS)},
                    "parameters": OUTPUT_PARAMETERS,
                },
            },
        },
    },
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error answers of a route, for its `responses`."""
    return {code: {"model": Error, "description": REASONS[code]} for code in codes}


TOP_K: dict[str, Any] = {
    "name": "top_k",
    "in": "query",
    "required": False,
    "description": "how many classes to answer with",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": TOP},
}
LENGTH: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "bytes of JSON, where raw tensors follow it",
    "schema": {"type": "integer", "minimum": 0},
}
PICTURE: dict[str, Any] = {
    "required": True,
    "description": "PNG, JPEG, WebP, GIF (first frame) or BMP (no run lengths), as it is or as the form field `file`",
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}
LOAD = {"type": "object", "properties": {"parameters": {"type": ["object", "null"], "maxProperties": 0}}}
INDEX = {"type": "object", "properties": {"ready": {"type": "boolean", "description": "only the ready ones"}}}
TEXT: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
INFERENCE: dict[str, Any] = {
    "model": Inference,
    "description": "the scores; as raw tensors behind the JSON where they were asked for",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


def path(name: str, text: str, example: str | None = None) -> dict[str, Any]:
    """Describe a parameter in the path."""
    found: dict[str, Any] = {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "minLength": 1},
    }
    return found if example is None else {**found, "example": example}


def json_body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Describe a JSON body."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def with_key(description: dict[str, Any], free: Collection[str]) -> dict[str, Any]:
    """Add to the description that every path but those in `free` needs a key."""
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
