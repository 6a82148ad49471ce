"""The application for Ray Serve, without Ray's cluster: its arguments, and what a replica is made of."""

import asyncio
from typing import Any

import pytest

ray_app = pytest.importorskip("deploy.ray_app", reason="needs ray[serve]")

from serve.settings import Settings  # noqa: E402


def deployment(**arguments: Any) -> Any:
    return ray_app.app(ray_app.Arguments(**arguments))._bound_deployment


def test_arguments_and_settings_reach_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_SERVE_MAX_QUEUE", "128")
    monkeypatch.setenv("ZOO_SERVE_TIMEOUT", "7")
    made = deployment(cpus=2, min_replicas=2, max_replicas=6)
    options = made.ray_actor_options
    assert options["num_cpus"] == 2
    variables = options["runtime_env"]["env_vars"]
    assert variables == {"ZOO_SERVE_MAX_QUEUE": "128", "ZOO_SERVE_TIMEOUT": "7"}
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 6)
    # More than the replica's queue holds must be able to reach it: it is the one that refuses.
    assert made.max_ongoing_requests > 128
    # A replica that is stopped has the time that its slowest request may take.
    assert made._deployment_config.graceful_shutdown_timeout_s >= 7


def test_a_mistake_is_told_before_replicas_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_SERVE_PRECISION", "int4")
    with pytest.raises(ValueError, match="precision is 'int4'; valid are"):
        deployment()
    monkeypatch.delenv("ZOO_SERVE_PRECISION")
    with pytest.raises(ValueError, match="cpus"):
        deployment(cpus=0)


@pytest.mark.parametrize("cores", [1.0, 3.0])
def test_a_replica_has_the_threads_of_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, cores: float) -> None:
    class Context:
        def get_assigned_resources(self) -> dict[str, float]:
            return {"CPU": cores}

    monkeypatch.setattr(ray_app, "get_runtime_context", Context)
    monkeypatch.setenv("ZOO_SERVE_MODELS", str(tmp_path))
    monkeypatch.setenv("ZOO_SERVE_GRPC_PORT", "8001")
    settings: Settings = ray_app.build().state.engine.settings
    assert (settings.threads, settings.app, settings.grpc_port) == (cores, False, 0)
    assert settings.models == tmp_path


def test_health_means_ready(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "model").write()

    class Context:
        def get_assigned_resources(self) -> dict[str, float]:
            return {"CPU": 1.0}

    monkeypatch.setattr(ray_app, "get_runtime_context", Context)
    monkeypatch.setenv("ZOO_SERVE_MODELS", str(tmp_path))

    class Stub:
        app = ray_app.build()

    check = ray_app.Replica.check_health
    engine = Stub.app.state.engine
    engine.start()
    asyncio.run(check(Stub()))  # waits until it has loaded
    engine.repository.unload("model")
    with pytest.raises(RuntimeError, match="no model is loaded"):
        asyncio.run(check(Stub()))
    engine.close()
    with pytest.raises(RuntimeError, match="shutting down"):
        asyncio.run(check(Stub()))
