"""Messages and calls without a client library around them."""

from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Stub = service_pb2_grpc.GRPCInferenceServiceStub


def message(model: str, pixels: np.ndarray, **more: Any) -> Any:
    """A ModelInferRequest with raw contents."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[pixels.tobytes()], **more)


def scores(response: Any, name: str = "logits") -> np.ndarray:
    """float32 [n, classes] of a ModelInferResponse."""
    index = [output.name for output in response.outputs].index(name)
    return np.frombuffer(response.raw_output_contents[index], "<f4").reshape(response.outputs[index].shape)


def status(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.value.code(), error.value.details()
