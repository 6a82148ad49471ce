"""Ray Serve with dynamic batches: up to 32 images, 2 ms."""

import logging
import sys
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from serving_model import decode, labels, response, run, session
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Classify:
    def __init__(self) -> None:
        self.network = session()
        self.names = labels(self.network)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def predict(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return list(run(self.network, images))

    async def __call__(self, request: Request) -> dict[str, Any]:
        return response(self.names, await self.predict(decode(await request.body())))


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classify.bind(), route_prefix="/classify")  # type: ignore[attr-defined]  # the decorator adds `bind`
    while True:
        time.sleep(3600)
