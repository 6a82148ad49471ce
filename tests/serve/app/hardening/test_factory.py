"""The app as `uvicorn --factory serve.api:create_app` serves it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from watching import eventually

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.xdist_group("serve")


@contextmanager
def uvicorn(models: Path, *options: object) -> Iterator[SimpleNamespace]:
    command = [sys.executable, "-m", "uvicorn", "--factory", "serve.api:create_app", "--port", "0", *map(str, options)]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "ZOO_SERVE_MODELS": str(models)}, stderr=subprocess.PIPE, text=True
    ) as process:
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()

        def url() -> str:
            return next(iter(re.findall(r"running on (http://\S+)", "".join(lines))), "")

        def ready() -> bool:
            try:
                return bool(url()) and httpx.get(f"{url()}/v2/health/ready", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        try:
            assert eventually(ready, 60), lines
            yield SimpleNamespace(process=process, url=url(), lines=lines)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def test_with_several_workers_it_says_that_the_app_needs_one(tiny: Any, tmp_path: Path, encode: Any) -> None:
    model = tiny(tmp_path / "model").write()
    with uvicorn(tmp_path, "--workers", 2) as server:
        text = "it keeps its visitors' sessions in one process, and this server has 2 workers"
        assert eventually(lambda: sum(text in line for line in server.lines) == 2), server.lines
        answer = httpx.get(server.url)
        assert answer.status_code == 503
        assert text in answer.json()["error"]
        assert httpx.get(f"{server.url}/gradio_api/info").status_code == 404
        image = encode(model.images(1)[0])
        assert httpx.post(f"{server.url}/classify/model", content=image, timeout=60).status_code == 200
