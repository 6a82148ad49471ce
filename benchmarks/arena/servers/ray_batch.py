"""Ray Serve's own `@serve.batch`: one replica with all cores, up to 32 requests, 2 ms."""

import sys
import time
from typing import Any

import numpy as np
from ray import serve
from starlette.requests import Request

from serve.engine.processor import usable_cores

from .model import BATCH, WAIT, labels, read, response, run_all, session
from .ray_cluster import begin


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": usable_cores()})
class Classify:
    def __init__(self) -> None:
        self.network = session()
        self.names = labels(self.network)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def predict(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        return run_all(self.network, requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return response(self.names, await self.predict(read(self.network, await request.body())))


if __name__ == "__main__":
    begin(int(sys.argv[1]))
    serve.run(Classify.bind(), route_prefix="/classify")  # type: ignore[attr-defined]  # the decorator adds `bind`
    while True:
        time.sleep(3600)
