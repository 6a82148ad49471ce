"""Requests with one image or a batch, in the form that a server takes, and the classes in its responses."""

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GRPC = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Message:
    """A request, and how to read its response.

    Attributes:
        path: the URL's path.
        body: as it is sent; of gRPC the message with its prefix of five bytes.
        headers: those that the body needs.
        classes: reads the class of each image from a response's body.
    """

    path: str
    body: bytes
    headers: dict[str, str]
    classes: Callable[[bytes], list[int]] = field(compare=False)


Maker = Callable[[bytes, np.ndarray], Message]
"""Makes a message of an image file and, or, of the same image as uint8 [n, H, W, 3]."""


def classes_of_json(body: bytes) -> list[int]:
    """Read a response of /classify, a list of them, or one with the probabilities of several images."""
    found = json.loads(body)
    if "probabilities" in found:
        return [int(np.argmax(row)) for row in found["probabilities"]]
    return [int(one["predictions"][0]["index"]) for one in (found if isinstance(found, list) else [found])]


def raw(path: str, *, pixels: bool = False) -> Maker:
    """The image file, or the pixels' bytes, as the body."""
    kind = "application/octet-stream" if pixels else "image/png"
    return lambda file, images: Message(
        path, images.tobytes() if pixels else file, {"Content-Type": kind}, classes_of_json
    )


def form(path: str, *, pixels: bool = False, name: str = "file", copies: int = 1) -> Maker:
    """A form with the image file, once or several times, or with the pixels' bytes."""

    def make(file: bytes, images: np.ndarray) -> Message:
        head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\n'.encode()
        part = head + b"Content-Type: image/png\r\n\r\n" + (images.tobytes() if pixels else file) + b"\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        return Message(path, part * copies + b"--frontier--\r\n", kind, classes_of_json)

    return make


def v2(path: str, *, pixels: bool = False, shape: tuple[int, ...] = (1,)) -> Maker:
    """The Open Inference Protocol's REST with tensors in binary: the image file as BYTES, or the pixels as UINT8."""

    def make(file: bytes, images: np.ndarray) -> Message:
        data = images.tobytes() if pixels else _bytes_tensor(file)
        entry: dict[str, Any] = {"name": "image", "datatype": "UINT8" if pixels else "BYTES"}
        entry |= {"shape": list(images.shape if pixels else shape)}
        head = json.dumps(
            {
                "inputs": [{**entry, "parameters": {"binary_data_size": len(data)}}],
                "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        return Message(path, head + data, headers, classes_of_v2)

    return make


def v2_json(path: str, *, pixels: bool = False) -> Maker:
    """The Open Inference Protocol's REST in JSON alone: the image file in base64, or the pixels as numbers."""

    def make(file: bytes, images: np.ndarray) -> Message:
        entry = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        data: list[object] = [base64.b64encode(file).decode()]
        if pixels:
            entry = {"name": "image", "shape": list(images.shape), "datatype": "UINT8"}
            data = images.ravel().tolist()
        body = json.dumps({"inputs": [{**entry, "data": data}]}).encode()
        return Message(path, body, {"Content-Type": "application/json"}, classes_of_v2)

    return make


def grpc(model: str, *, pixels: bool = False, shape: tuple[int, ...] = (1,)) -> Maker:
    """The Open Inference Protocol's gRPC with raw tensors."""

    def make(file: bytes, images: np.ndarray) -> Message:
        from tritonclient.grpc import service_pb2  # of the extra `grpc`

        request = service_pb2.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="image", datatype="UINT8" if pixels else "BYTES")
        tensor.shape.extend(images.shape if pixels else shape)
        request.outputs.add(name="probabilities")
        request.raw_input_contents.append(images.tobytes() if pixels else _bytes_tensor(file))
        message = request.SerializeToString()
        headers = {"content-type": "application/grpc", "te": "trailers"}
        return Message(GRPC, b"\0" + struct.pack(">I", len(message)) + message, headers, classes_of_grpc)

    return make


def _bytes_tensor(file: bytes) -> bytes:
    """A tensor of one element: its length in four bytes, and the bytes."""
    return struct.pack("<I", len(file)) + file


def classes_of_v2(body: bytes) -> list[int]:
    """Read a response of the protocol's REST, whose probabilities are in the JSON or in binary after it."""
    # The length of the JSON is in a header; the object also ends where its braces do.
    text = body.decode("latin-1")
    head, end = json.JSONDecoder().raw_decode(text)
    output = next(output for output in head["outputs"] if output["name"] == "probabilities")
    values = np.array(output["data"]) if "data" in output else np.frombuffer(body[end:], "<f4")
    return [int(best) for best in values.reshape(output["shape"]).argmax(axis=1)]


def classes_of_grpc(body: bytes) -> list[int]:
    """Read a response of the protocol's gRPC, without its prefix."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse.FromString(body)
    number = next(number for number, output in enumerate(response.outputs) if output.name == "probabilities")
    output = response.outputs[number]
    if response.raw_output_contents:
        values = np.frombuffer(response.raw_output_contents[number], "<f4")
    else:
        values = np.array(output.contents.fp32_contents)
    return [int(best) for best in values.reshape(list(output.shape)).argmax(axis=1)]
