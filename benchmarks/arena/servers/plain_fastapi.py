"""A minimal FastAPI server: one request per run, in the handler."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from .model import labels, read, response, run, session

app = FastAPI()
network = session()
names = labels(network)


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    return response(names, run(network, read(network, await request.body())))


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
