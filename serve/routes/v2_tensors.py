"""The Open Inference Protocol's inference messages: JSON with or without raw tensors after it.

From bytes to a `Request`, and from a `Result` to bytes; without HTTP or the engine.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from serve.engine.models import OUTPUTS, Images, Scores
from serve.engine.queues import Result, ranked
from serve.errors import BadRequest

# Tells how many bytes of a body are JSON, where raw tensors follow.
HEADER = "Inference-Header-Content-Length"
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that is asked for, raw (`binary`) or as JSON; with `classes`, that many best classes as text."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True, slots=True)
class Request:
    """An inference request. `seconds` is how long the client waits, None where it does not say."""

    id: str | None
    images: Images
    outputs: list[Output]
    seconds: float | None


def parse(body: bytes, length: int, shape: tuple[int, int, int], *, max_images: int) -> Request:
    """Parse the request in `body`, whose first `length` bytes are JSON.

    `shape` is (H, W, C) of the model. Raises BadRequest, which says what is wrong, and what would be right.
    """
    try:
        message = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from None
    message = _object(message, "the request", optional=False)
    if message.get("id") is not None and not isinstance(message["id"], str):
        raise BadRequest(f"id is {message['id']!r:.100}; it must be a string")
    parameters = _object(message.get("parameters"), "parameters")
    for name in SEQUENCE:
        if parameters.get(name):
            raise BadRequest(f"parameter {name} is not supported: these models keep no state")
    return Request(
        id=message.get("id"),
        images=_images(message.get("inputs"), memoryview(body)[length:], shape, max_images),
        outputs=_outputs(message.get("outputs"), parameters),
        seconds=_seconds(parameters.get("timeout")),
    )


def header_length(header: str | None, total: int) -> int:
    """Tell how many of a body's `total` bytes are JSON: what the header says; without it, all. Raises BadRequest."""
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= total):
        raise BadRequest(f"{HEADER} is {header!r:.50}; valid are 0 to {total}")
    return int(header)


def _object(value: Any, name: str, optional: bool = True) -> dict[str, Any]:
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object, not {type(value).__name__}")
    return value


def _seconds(timeout: Any) -> float | None:
    if timeout is None or timeout == 0:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise BadRequest(f"parameter timeout is {timeout!r:.50}; it must be a whole number of microseconds")
    return timeout / 1e6


def _images(inputs: Any, raw: memoryview, shape: tuple[int, int, int], max_images: int) -> Images:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest("inputs must be a list with the one tensor 'image'")
    tensor = inputs[0]
    wanted = ["n", *shape]
    if tensor.get("name") != "image":
        raise BadRequest(f"input {tensor.get('name')!r:.100} is unknown; valid is 'image'")
    if tensor.get("datatype") != "UINT8":
        raise BadRequest(f"datatype of 'image' is {tensor.get('datatype')!r:.50}; valid is 'UINT8'")
    size = tensor.get("shape")
    if (
        not isinstance(size, list)
        or not all(type(part) is int and part > 0 for part in size)
        or tuple(size[1:]) != shape
    ):
        raise BadRequest(f"shape of 'image' is {size!r:.100}; valid is {wanted}")
    if size[0] > max_images:
        raise BadRequest(f"{size[0]} images in one request; at most {max_images}")
    parameters = _object(tensor.get("parameters"), "parameters of 'image'")
    _no_shared_memory(parameters)
    binary = parameters.get("binary_data_size")
    if binary is None:
        if len(raw):
            raise BadRequest(f"{len(raw)} bytes after the JSON, but 'image' has no binary_data_size")
        return _from_json(tensor.get("data"), size)
    if "data" in tensor:
        raise BadRequest("'image' has both data and binary_data_size")
    total = math.prod(size)
    if binary != total or len(raw) != total or isinstance(binary, bool):
        raise BadRequest(
            f"binary_data_size is {binary!r:.50} and {len(raw)} bytes follow the JSON; shape {size} takes {total}"
        )
    return np.frombuffer(raw, np.uint8).reshape(size)


def _from_json(data: Any, size: list[int]) -> Images:
    """Read an image from JSON, flat or nested, as the protocol allows."""
    if not isinstance(data, list):
        raise BadRequest("'image' has neither a list of data nor binary_data_size")
    # Not by NumPy, which makes one array of whatever it is given: with one long text among short ones, a huge one.
    values = data
    lengths = size if data and isinstance(data[0], list) else [math.prod(size)]
    for depth, length in enumerate(lengths):
        rows = [values] if depth == 0 else values
        if any(type(row) is not list or len(row) != length for row in rows):
            raise BadRequest(f"data of 'image' is neither {math.prod(size)} numbers nor nested like its shape {size}")
        values = list(itertools.chain.from_iterable(rows))
    try:
        if set(map(type, values)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(values), np.uint8).reshape(size)
    except ValueError:
        raise BadRequest("data of 'image' must be whole numbers from 0 to 255") from None


def _outputs(asked: Any, parameters: dict[str, Any]) -> list[Output]:
    usual = parameters.get("binary_data_output", False)
    if not isinstance(usual, bool):
        raise BadRequest(f"parameter binary_data_output is {usual!r:.50}; valid are true and false")
    if asked is None or asked == []:
        return [Output(name, usual, 0) for name in OUTPUTS]
    if not isinstance(asked, list):
        raise BadRequest("outputs must be a list")
    outputs = [_output(_object(entry, "an output", optional=False), usual) for entry in asked]
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequest("an output is asked for twice")
    return outputs


def _output(entry: dict[str, Any], usual: bool) -> Output:
    name = entry.get("name")
    if name not in OUTPUTS:
        raise BadRequest(f"output {name!r:.100} is unknown; valid are {', '.join(OUTPUTS)}")
    parameters = _object(entry.get("parameters"), f"parameters of {name!r}")
    _no_shared_memory(parameters)
    binary, classes = parameters.get("binary_data", usual), parameters.get("classification", 0)
    if not isinstance(binary, bool):
        raise BadRequest(f"parameter binary_data is {binary!r:.50}; valid are true and false")
    if type(classes) is not int or classes < 0:
        raise BadRequest(f"parameter classification is {classes!r:.50}; it must be a whole number of classes")
    return Output(name, binary, classes)


def _no_shared_memory(parameters: dict[str, Any]) -> None:
    if any(name in parameters for name in SHARED):
        raise BadRequest("shared memory is not supported; send the tensor in the request")


def render(request: Request, result: Result, version: str) -> tuple[bytes, int | None]:
    """Write the response's body; return it, and the length of its JSON when raw tensors follow it, else None."""
    raw: list[bytes] = []
    message: dict[str, Any] = {"model_name": result.model.name, "model_version": version, "outputs": []}
    if request.id is not None:
        message["id"] = request.id
    for output in request.outputs:
        scores = getattr(result, output.name)
        texts: list[str] | None = None
        if output.classes:
            rows = _best(scores, result.model.labels, output.classes)
            kind, shape, texts = "BYTES", [len(rows), len(rows[0])], list(itertools.chain.from_iterable(rows))
        else:
            kind, shape = "FP32", list(scores.shape)
        entry: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": shape}
        if output.binary:
            raw.append(scores.astype("<f4", copy=False).tobytes() if texts is None else _packed(texts))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = scores.ravel().tolist() if texts is None else texts
        message["outputs"].append(entry)
    head = orjson.dumps(message)
    return b"".join([head, *raw]), len(head) if raw else None


def _best(scores: Scores, labels: list[str], classes: int) -> list[list[str]]:
    """Write the best classes of each row of float32 [n, classes] as `score:index:label`, best first."""
    return [[f"{row[index]:f}:{index}:{labels[index]}" for index in ranked(row, classes)] for row in scores]


def _packed(texts: list[str]) -> bytes:
    """Pack a BYTES tensor: each text after its length, four bytes, little-endian."""
    return b"".join(len(data).to_bytes(4, "little") + data for data in map(str.encode, texts))
