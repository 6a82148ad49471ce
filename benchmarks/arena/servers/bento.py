"""BentoML with adaptive batches of up to 32 images. Its batcher chooses how long to wait."""

from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from .model import BATCH, labels, response, run, session


@bentoml.service(workers=1, traffic={"timeout": 30}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Classify:
    def __init__(self) -> None:
        self.network = session()
        self.names = labels(self.network)

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def classify(self, images: list[Image]) -> list[dict[str, Any]]:
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
        return [response(self.names, row[None]) for row in run(self.network, pixels)]
