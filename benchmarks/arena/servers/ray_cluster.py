"""Ray on this machine alone, and its Serve."""

import logging

import ray
from ray import serve


def begin(port: int) -> None:
    """Start a cluster of one node, with Ray Serve's proxy at a port of the loopback address."""
    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
