"""A minimal FastAPI server: one image per run, in the handler."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from serving_model import decode, labels, response, run, session

app = FastAPI()
network = session()
names = labels(network)


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    image = decode(await request.body())
    return response(names, run(network, [image])[0])


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
