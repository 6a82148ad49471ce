"""The messages of ModelInfer: to the checks that REST has, and from the engine's results."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from serve.engine.models import Images
from serve.engine.queues import Result
from serve.errors import ApiError, BadRequest
from serve.http.bodies import SMALL
from serve.routes import v2_tensors
from serve.routes.grpc.calls import parse, short
from serve.routes.v2_tensors import Request

# The fields of `contents` that hold an input's values.
TYPED = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
# Most parts of a message of more than SMALL bytes. Once parsed, an empty part of two bytes takes a hundred.
MAX_PARTS = 10_000


def read_infer(body: bytes) -> Any:
    """Parse a ModelInferRequest; raises ApiError if it is none, or one that takes far more memory than its bytes."""
    if len(body) > SMALL:
        _limit_structure(body)
    return parse(service_pb2.ModelInferRequest, body)


def request_of(message: Any, shape: tuple[int, int, int], *, max_images: int) -> Request:
    """Check a ModelInferRequest, and take its tensor.

    Args:
        message: The message.
        shape: (H, W, C) of the model's images.
        max_images: The most images in one request.

    Raises:
        ApiError: Says what is wrong, and what would be right.
    """
    request = v2_tensors.check(_as_json(message), shape, max_images=max_images)
    tensor = request["inputs"][0]
    values = _values(message, tensor["datatype"])
    size = tensor["shape"]
    if tensor["datatype"] == "UINT8":
        images: Images | list[bytes] = _pixels(values, size)
    else:
        images = v2_tensors.unpacked(memoryview(values)) if isinstance(values, bytes) else list(values)
        v2_tensors.check_files(images, size)
    return v2_tensors.build(request, images, binary=True)


def _as_json(message: Any) -> dict[str, Any]:
    """Write all but the data as the protocol's JSON has it. Of lists that are too long, just enough to tell."""
    found: dict[str, Any] = {
        "parameters": _parameters(message.parameters),
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape[:10]),
                "parameters": _parameters(tensor.parameters),
            }
            for tensor in message.inputs[:2]
        ],
        "outputs": [
            {"name": tensor.name, "parameters": _parameters(tensor.parameters)} for tensor in message.outputs[:4]
        ],
    }
    return {**found, "id": message.id} if message.id else found


def _parameters(parameters: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _values(message: Any, datatype: str) -> Any:
    """Return the values of the input: bytes, or the list in `contents`."""
    contents, wanted = message.inputs[0].contents, TYPED[datatype]
    filled = [field.name for field, _ in contents.ListFields()]
    raw = message.raw_input_contents
    if not raw:
        if filled != [wanted]:
            raise BadRequest(
                f"{datatype} 'image' has its values in {', '.join(filled) or 'neither'}; valid are raw_input_contents "
                f"and contents.{wanted}"
            )
        return getattr(contents, wanted)
    if filled:
        raise BadRequest(f"'image' has both raw_input_contents and contents.{filled[0]}")
    if len(raw) != 1:
        raise BadRequest(f"raw_input_contents has {len(raw)} entries; valid is one for each input: 1")
    return raw[0]


def _pixels(values: Any, size: list[int]) -> Images:
    count = math.prod(size)
    if len(values) != count:
        kind = "bytes in raw_input_contents" if isinstance(values, bytes) else "values in contents.uint_contents"
        raise BadRequest(f"{len(values)} {kind}; shape {size} takes {count}")
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8).reshape(size)
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(size)
    except ValueError:
        raise BadRequest("contents.uint_contents of 'image' must be whole numbers from 0 to 255") from None


def error_of(id: str, error: ApiError) -> Any:  # noqa: A002 - the protocol's word
    """Write an error as ModelStreamInferResponse."""
    return service_pb2.ModelStreamInferResponse(
        error_message=short(error.message), infer_response=service_pb2.ModelInferResponse(id=id)
    )


def response_of(request: Request, result: Result, version: str) -> Any:
    """Write a result as ModelInferResponse, with raw tensors."""
    response = service_pb2.ModelInferResponse(model_name=result.model.name, model_version=version, id=request.id or "")
    for output in request.outputs:
        kind, shape, values = v2_tensors.tensor_of(output, result)
        response.outputs.add(name=output.name, datatype=kind, shape=shape)
        response.raw_output_contents.append(v2_tensors.raw_bytes(values))
    return response


def _number(message: Any, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)


INPUTS = _number(service_pb2.ModelInferRequest, "inputs")
RAW = _number(service_pb2.ModelInferRequest, "raw_input_contents")
CONTENTS = _number(service_pb2.ModelInferRequest.InferInputTensor, "contents")
NUMBERS = _number(service_pb2.InferTensorContents, "uint_contents")
FILES = _number(service_pb2.InferTensorContents, "bytes_contents")


# The parts that hold an image's bytes.
TENSORS = ((RAW,), (INPUTS, CONTENTS, NUMBERS), (INPUTS, CONTENTS, FILES))


def _limit_structure(body: bytes) -> None:
    """Refuse a large message unless nearly all of its bytes are a tensor's: parsed, others take up to 50 times more."""
    other = 0
    for count, (path, size) in enumerate(_parts(body), 1):
        other += 0 if path in TENSORS else size
        if count > MAX_PARTS or other > SMALL:
            raise ApiError(
                413, f"the message has more than {SMALL:,} bytes, or {MAX_PARTS:,} parts, besides its tensor"
            )


def _parts(body: bytes) -> Iterator[tuple[tuple[int, ...], int]]:
    """List the fields of a ModelInferRequest: the numbers that lead to each, and its bytes.

    It goes into the inputs and their contents; of these themselves it counts the head alone.

    Raises:
        BadRequest: If it is no message in protocol buffers' format.
    """
    left: list[tuple[tuple[int, ...], int, int]] = [((), 0, len(body))]
    while left:
        path, start, end = left.pop()
        while start < end:
            try:
                number, inside, after = _field(body, start)
            except (IndexError, KeyError, ValueError):
                after = end + 1
            if after > end:
                raise BadRequest("the message is no inference.ModelInferRequest")
            here = (*path, number)
            if here in ((INPUTS,), (INPUTS, CONTENTS)):
                left.append((here, inside, after))
                yield here, inside - start
            else:
                yield here, after - start
            start = after


def _field(body: bytes, start: int) -> tuple[int, int, int]:
    """Return a field's number, where its value begins, and where it ends."""
    tag, inside = _varint(body, start)
    kind = tag & 7
    if kind == 0:
        after = _varint(body, inside)[1]
    elif kind == 2:
        size, inside = _varint(body, inside)
        after = inside + size
    else:
        after = inside + {1: 8, 5: 4}[kind]
    return tag >> 3, inside, after


def _varint(body: bytes, start: int) -> tuple[int, int]:
    """Read a number of variable length; return it, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        byte = body[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError
