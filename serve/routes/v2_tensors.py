"""The Open Inference Protocol's inference messages: JSON, with or without raw tensors after it.

`parse` makes a `Request` of a request's bytes, `render` makes a response's bytes of a `Result`. Neither knows HTTP.
"""

import base64
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serve.engine.models import OUTPUTS, Images, Scores
from serve.engine.queues import Result, ranked
from serve.errors import ApiError, BadRequest
from serve.http.bodies import SMALL
from serve.routes.v2_requests import INFER, InputTensor, RequestedOutput

# Tells how many bytes of a body are JSON, where raw tensors follow.
HEADER = "Inference-Header-Content-Length"
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True, slots=True)
class Output:
    """A requested tensor, raw (`binary`) or as JSON. With `classes` > 0: that many best classes, as text."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True, slots=True)
class Request:
    """An inference request.

    Attributes:
        id: returned in the response.
        images: pixels, or encoded files (a BYTES tensor).
        outputs: the requested tensors.
        seconds: how long the client waits, None if it does not say.
    """

    id: str | None
    images: Images | list[bytes]
    outputs: list[Output]
    seconds: float | None


def parse_raw(body: bytes, shape: tuple[int, int, int], *, max_images: int) -> Request:
    """Parse a request without JSON: the body is the tensor of the model's only input; the response is binary too.

    Raises:
        BadRequest: if the body is not a whole number of images of `shape`, or of too many.
    """
    size = math.prod(shape)
    count, rest = divmod(len(body), size)
    if rest or not count:
        raise BadRequest(
            f"the body has {len(body)} bytes; without JSON, valid are multiples of {size}: images of {shape}"
        )
    _check_count(count, max_images)
    images = np.frombuffer(body, np.uint8).reshape(count, *shape)
    return Request(id=None, images=images, outputs=_outputs(None, True), seconds=None)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise BadRequest(f"{count} images in one request; at most {most}")


# Bytes that one number of a tensor may take in JSON, with its commas, brackets and spaces.
NUMBER = 8
# Once parsed, a list of small values takes thirty times its bytes; a few long texts take little more than theirs.
FEW = 10_000


def _limit_json(body: bytes, length: int, most: int) -> None:
    """Refuse JSON of more than `most` bytes, unless it consists of few values, such as encoded images."""
    if length > most and sum(body.count(mark, 0, length) for mark in (b",", b"[", b"{")) > FEW:
        raise ApiError(
            413, f"{length:,} bytes of JSON are too many: at most {most:,}; tensors can be sent as raw bytes"
        )


def parse(body: bytes, length: int, shape: tuple[int, int, int], *, max_images: int) -> Request:
    """Parse an inference request.

    Args:
        body: the request's body.
        length: how many of its bytes are JSON.
        shape: (H, W, C) of the model's images.
        max_images: the most images in one request.

    Raises:
        ApiError: says what is wrong, and what would be right.
    """
    _limit_json(body, length, SMALL + max_images * math.prod(shape) * NUMBER)
    try:
        message = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from None
    request = INFER.check(message, shape=["n", *shape])
    parameters = request.get("parameters") or {}
    for name in SEQUENCE:
        if (message.get("parameters") or {}).get(name):
            raise BadRequest(f"parameter {name} is not supported: these models keep no state")
    for tensor in (*message["inputs"], *(message.get("outputs") or ())):
        if any(name in (tensor.get("parameters") or {}) for name in SHARED):
            raise BadRequest("shared memory is not supported; send the tensor in the request")
    tensor = request["inputs"][0]
    size = tensor["shape"]
    encoded = tensor["datatype"] == "BYTES"
    if (size[1:] not in ([], [1])) if encoded else (tuple(size[1:]) != shape):
        raise INFER.wrong(message, ("inputs", 0, "shape"), shape=["n"] if encoded else ["n", *shape])
    _check_count(size[0], max_images)
    timeout = parameters.get("timeout")
    raw = memoryview(body)[length:]
    return Request(
        id=request.get("id"),
        images=_files(tensor, raw) if encoded else _images(tensor, raw),
        outputs=_outputs(request.get("outputs"), parameters.get("binary_data_output", False)),
        seconds=timeout / 1e6 if timeout else None,
    )


def header_length(header: str | None, total: int) -> int:
    """Return how many of a body's `total` bytes are JSON: all, unless the header says otherwise.

    Raises:
        BadRequest: if the header is not a number of bytes in the body.
    """
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= total):
        raise BadRequest(f"{HEADER} is {header!r:.50}; valid are 0 to {total}")
    return int(header)


def _is_binary(tensor: InputTensor, raw: memoryview) -> bool:
    """Tell whether the tensor's data are the bytes after the JSON, and check that they are all there."""
    binary = (tensor.get("parameters") or {}).get("binary_data_size")
    if binary is None:
        if len(raw):
            raise BadRequest(f"{len(raw)} bytes after the JSON, but 'image' has no binary_data_size")
        return False
    if "data" in tensor:
        raise BadRequest("'image' has both data and binary_data_size")
    if type(binary) is not int or binary != len(raw):
        wanted = (
            "" if tensor["datatype"] == "BYTES" else f"; shape {tensor['shape']} takes {math.prod(tensor['shape'])}"
        )
        raise BadRequest(f"binary_data_size is {binary!r:.50} and {len(raw)} bytes follow the JSON{wanted}")
    return True


def _images(tensor: InputTensor, raw: memoryview) -> Images:
    """Read the images from the tensor's data, or from the bytes after the JSON."""
    size = tensor["shape"]
    if not _is_binary(tensor, raw):
        return _from_json(tensor.get("data"), size)
    if len(raw) != math.prod(size):
        raise BadRequest(f"{len(raw)} bytes follow the JSON; shape {size} takes {math.prod(size)}")
    return np.frombuffer(raw, np.uint8).reshape(size)


def _files(tensor: InputTensor, raw: memoryview) -> list[bytes]:
    """Read encoded files from the tensor's data, as base64, or from the bytes after the JSON."""
    size = tensor["shape"]
    files = _unpacked(raw) if _is_binary(tensor, raw) else _from_base64(tensor.get("data"), size)
    if len(files) != size[0]:
        raise BadRequest(f"'image' has {len(files)} elements; its shape {size} has {size[0]}")
    return files


def _unpacked(raw: memoryview) -> list[bytes]:
    """Unpack a BYTES tensor; see `_packed`."""
    files: list[bytes] = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        if len(raw) < end:
            raise BadRequest(f"element {len(files)} of 'image' claims {end - 4} bytes; {max(0, len(raw) - 4)} follow")
        files.append(bytes(raw[4:end]))
        raw = raw[end:]
    return files


# A long text is decoded in parts: other threads get their turn in between. A multiple of four.
BASE64_PART = 2**18


def _from_base64(data: Any, size: list[int]) -> list[bytes]:
    if not isinstance(data, list):
        raise BadRequest("'image' has neither a list of data nor binary_data_size")
    if len(size) == 2 and data and isinstance(data[0], list):  # nested like [n, 1]
        if any(type(row) is not list or len(row) != 1 for row in data):
            raise BadRequest(f"data of 'image' is nested, but not like its shape {size}")
        data = [row[0] for row in data]
    try:
        return [
            b"".join(
                base64.b64decode(text[start : start + BASE64_PART], validate=True)
                for start in range(0, len(text), BASE64_PART)
            )
            for text in data
        ]
    except (TypeError, ValueError):
        raise BadRequest("data of 'image' must be encoded image files, each as a base64 text") from None


def _from_json(data: Any, size: list[int]) -> Images:
    """Read images of shape `size` from JSON, flat or nested: the protocol allows both."""
    if not isinstance(data, list):
        raise BadRequest("'image' has neither a list of data nor binary_data_size")
    # Without NumPy, which makes an array of anything: if one text among many is long, of all of them at its length.
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


def _outputs(requested: list[RequestedOutput] | None, binary: bool) -> list[Output]:
    """List the tensors to respond with; `binary` is the default of those that do not choose."""
    if not requested:
        return [Output(name, binary, 0) for name in OUTPUTS]
    outputs = []
    for output in requested:
        parameters = output.get("parameters") or {}
        classes = parameters.get("classification", 0)
        if classes and output["name"] not in OUTPUTS:
            raise BadRequest(f"parameter classification is for {' and '.join(OUTPUTS)}, not for {output['name']!r}")
        outputs.append(Output(output["name"], parameters.get("binary_data", binary), classes))
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequest("an output is requested twice")
    return outputs


def render(request: Request, result: Result, version: str) -> tuple[bytes, int | None]:
    """Write a response's body; return it and, if raw tensors follow its JSON, the length of the JSON, else None."""
    raw: list[bytes] = []
    message: dict[str, Any] = {"model_name": result.model.name, "model_version": version, "outputs": []}
    if request.id is not None:
        message["id"] = request.id
    for output in request.outputs:
        values = getattr(result, output.name)
        texts: list[str] | None = None
        if output.classes:
            rows = _best(values, result.model.labels, output.classes)
            kind, shape, texts = "BYTES", [len(rows), len(rows[0])], list(itertools.chain.from_iterable(rows))
        else:
            kind, shape = "FP32" if output.name in OUTPUTS else "BOOL", list(values.shape)
        entry: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": shape}
        if output.binary:
            raw.append(_raw(values) if texts is None else _packed(texts))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = values.ravel().tolist() if texts is None else texts
        message["outputs"].append(entry)
    head = orjson.dumps(message)
    return b"".join([head, *raw]), len(head) if raw else None


def _best(scores: Scores, labels: list[str], classes: int) -> list[list[str]]:
    """Write the best classes of each row of float32 [n, classes] as `score:index:label`, best first."""
    return [[f"{row[index]:f}:{index}:{labels[index]}" for index in ranked(row, classes)] for row in scores]


def _raw(values: npt.NDArray[Any]) -> bytes:
    """Pack an FP32 or BOOL tensor: four bytes for each number, little-endian, or one byte for each truth value."""
    return (values.astype("<f4", copy=False) if values.dtype != np.bool_ else values).tobytes()


def _packed(texts: list[str]) -> bytes:
    """Pack a BYTES tensor: each text after its length, four bytes, little-endian."""
    return b"".join(len(data).to_bytes(4, "little") + data for data in map(str.encode, texts))
