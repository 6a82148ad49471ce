"""LitServe with dynamic batches: up to 32 requests, 2 ms."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from .model import BATCH, WAIT, labels, read, response, run_all, session


class Classify(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.network = session()
        self.names = labels(self.network)

    # Its requests are JSON or forms.
    def decode_request(self, request: Request) -> np.ndarray:
        return read(self.network, request["file"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        return run_all(self.network, requests)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return response(self.names, output)


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", timeout=30)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", log_level="error", generate_client_file=False)
