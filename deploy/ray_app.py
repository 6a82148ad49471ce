"""The server in replicas, by Ray Serve: `serve run deploy.ray_app:app`, Ray's command, in the project's folder.

`serve run deploy.ray_app:app cpus=2 max_replicas=8` gives each replica two cores and starts up to eight of them. The
settings are the server's own environment variables (ZOO_SERVE_MODELS, ...); the folder of models must exist on every
node. A replica is the ASGI application of `serve.api`, with its own queue and batches. Ray starts it again if it dies,
starts more when requests pile up, and stops one only after its requests are answered. The app needs one process, so it
is left out. gRPC is left out too: Ray has a proxy and a protocol of its own for it.
"""

import asyncio
import os

from fastapi import FastAPI
from pydantic import BaseModel, Field
from ray import get_runtime_context
from ray import serve as ray_serve
from ray.serve.config import AutoscalingConfig

from serve.api import create_app
from serve.settings import PREFIX, Settings, from_environment


class Arguments(BaseModel):
    """What `serve run deploy.ray_app:app NAME=VALUE ...` takes."""

    cpus: int = Field(default=1, ge=1, description="cores of a replica")
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    # Half of a full batch: more than that, and requests wait for a run.
    target_ongoing_requests: int = Field(
        default=16, ge=1, description="requests a replica, from which on Ray starts more"
    )


def build() -> FastAPI:
    """Build a replica's application, with as many threads as the replica has cores."""
    cores = int(get_runtime_context().get_assigned_resources().get("CPU", 1))
    # Ray's proxy is what clients reach, under any name; the replica itself listens on nothing.
    chosen = {"host": "0.0.0.0", "threads": cores, **from_environment(ignore=("app", "grpc_port")), "app": False}
    return create_app(Settings(**chosen))


@ray_serve.ingress(build)
class Replica:
    """A replica. Ray asks for its health before it sends requests, and every few seconds from then on."""

    app: FastAPI  # Ray sets it

    async def check_health(self) -> None:
        """Raise unless the server is ready: Ray then replaces the replica. At the start, wait until it has loaded."""
        engine = self.app.state.engine
        await asyncio.to_thread(engine.wait)
        if engine.unready:
            raise RuntimeError(f"not ready: {engine.unready}")


def app(arguments: Arguments) -> ray_serve.Application:
    """Build the Ray Serve application."""
    settings = Settings(**from_environment())  # a mistake is told here, before replicas start
    deployment = ray_serve.deployment(
        Replica,
        name="deep-image-zoo",
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=arguments.target_ongoing_requests,
        ),
        # The replica's own queue is bounded, and refuses what is too much with 503.
        max_ongoing_requests=2 * settings.max_queue,
        ray_actor_options={
            "num_cpus": arguments.cpus,
            # Replicas inherit the environment of their node, not that of the command.
            "runtime_env": {"env_vars": {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}},
        },
        health_check_period_s=5,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=settings.timeout + settings.shutdown_timeout,
    )
    return deployment.bind()
