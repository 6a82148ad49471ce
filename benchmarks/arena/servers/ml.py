"""MLServer with adaptive batches: up to 32 images, 2 ms. HTTP and gRPC."""

import asyncio
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from .model import BATCH, WAIT, decode, run, session


class Classify(MLModel):
    async def load(self) -> bool:
        self.network = session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "BYTES":
            images = np.concatenate([decode(data) for data in Base64Codec.decode_input(tensor)])
        else:
            images = NumpyCodec.decode_input(tensor)
        output = NumpyCodec.encode_output("probabilities", run(self.network, images))
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve() -> None:
    settings = Settings(
        host="127.0.0.1", http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), metrics_endpoint=None, debug=False
    )
    model = ModelSettings(
        name="classify", implementation=f"{__spec__.name}.Classify", max_batch_size=BATCH, max_batch_time=WAIT
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve())
