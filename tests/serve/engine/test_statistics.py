"""Statistics as Triton's extension has them: by REST and in the engine."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import Gate, run
from tritonclient import http as triton

from serve.engine.batching import Engine
from serve.errors import ApiError, DeadlineExceeded, Overloaded
from serve.settings import Settings


def counts(engine: Engine, name: str) -> dict[str, Any]:
    return engine.repository.get(name).statistics.render()


def test_requests_and_runs_are_counted(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tmp_path / "model").write()
    other = tiny(tmp_path / "other").write()
    engine = Engine(Settings(models=tmp_path, threads=1, max_queue=9, max_images=9))

    async def work() -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(engine.infer("model", model.images(1)))
        await asyncio.to_thread(gate.entered.wait, 20)
        # These three form the next batch; then one is cancelled, one is late, and one finds no room.
        waiting = [asyncio.create_task(engine.infer("model", model.images(n))) for n in (1, 2, 3)]
        cancelled = asyncio.create_task(engine.infer("model", model.images(1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(DeadlineExceeded):
            await engine.infer("model", model.images(1), timeout=0.01)
        with pytest.raises(Overloaded):
            await engine.infer("model", model.images(9))
        with pytest.raises(ApiError, match="images are"):
            await engine.infer("model", np.zeros((1, 2, 2, 3), np.uint8))
        gate.open.set()
        await asyncio.gather(first, *waiting)
        found = counts(engine, "model")
        assert (found["inference_count"], found["execution_count"]) == (7, 2)
        assert [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in found["batch_stats"]] == [
            (1, 1), (6, 1),
        ]  # fmt: skip
        times = found["inference_stats"]
        assert times["success"]["count"] == times["queue"]["count"] == times["compute_infer"]["count"] == 4
        assert times["fail"]["count"] == 3  # what the client did wrong never reached the model
        # Each request waited for all of its run.
        runs = {entry["batch_size"]: entry["compute_infer"]["ns"] for entry in found["batch_stats"]}
        assert times["compute_infer"]["ns"] == pytest.approx(runs[1] + 3 * runs[6], abs=4)
        parts = [times[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
        assert min(parts) > 0
        assert times["success"]["ns"] >= sum(parts)
        assert found["last_inference"] > 1.7e12
        assert counts(engine, other.name)["inference_count"] == counts(engine, other.name)["last_inference"] == 0
        # A model that is loaded again starts anew.
        engine.repository.load("model")
        assert counts(engine, "model")["inference_stats"]["success"] == {"count": 0, "ns": 0}

    run(engine, work)


def test_a_run_that_fails_is_a_failure(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model").write(fragile=True)
    engine = Engine(Settings(models=tmp_path, threads=1))
    bad = model.images(1)
    bad[:] = 255

    async def work() -> None:
        with pytest.raises(ApiError, match="model failed"):
            await engine.infer("model", bad)
        found = counts(engine, "model")
        assert found["inference_stats"]["fail"]["count"] == 1
        assert found["inference_count"] == found["execution_count"] == found["inference_stats"]["success"]["count"] == 0

    run(engine, work)


def test_tritonclient_reads_them(tiny: Any, two: list[Any], running: Any) -> None:
    with (
        running("--models", two[0].folder.parent, "--no-app", "--max-batch", 4) as server,
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
    ):
        for count in (1, 3, 3):
            tensor = triton.InferInput("image", [count, 32, 32, 3], "UINT8")
            tensor.set_data_from_numpy(two[0].images(count))
            client.infer("a", [tensor])
        (one,) = client.get_inference_statistics("a", "1")["model_stats"]
        assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("a", "1", 7, 3)
        assert one["inference_stats"]["success"]["count"] == 3
        assert [entry["batch_size"] for entry in one["batch_stats"]] == [1, 3]
        assert client.get_inference_statistics("a") == {"model_stats": [one]}
        names = [entry["name"] for entry in client.get_inference_statistics()["model_stats"]]
        assert names == ["a", "b"]
        with pytest.raises(Exception, match="unknown version '2' of a"):
            client.get_inference_statistics("a", "2")
