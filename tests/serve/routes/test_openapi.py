"""The API's description against the server itself: schemathesis makes requests from it, right and wrong ones."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve.api import create_app
from serve.settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_schemathesis(tiny: Any, tmp_path: Path, running: Any, known: bool) -> None:
    tiny(tmp_path / "models" / "model").write()
    configuration = tmp_path / "schemathesis.toml"
    parameters = '[parameters]\n"path.model" = "model"\n"path.version" = "1"\n'
    configuration.write_text(parameters if known else "")
    with running("--models", tmp_path / "models", "--no-app") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", configuration]
        command += ["run", f"{server.url}/openapi.json", "--max-examples", "20", "--seed", "1"]
        # What is a picture, and which shape a model takes, no schema can say: right requests may be refused.
        command += ["--exclude-checks", "positive_data_acceptance"]
        # After an unload there would be nothing left to ask.
        command += ["--exclude-path-regex", "unload"] if known else []
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_key_stands_in_the_description() -> None:
    described = create_app(Settings(app=False, api_key="secret")).openapi()
    assert described["security"] == [{"bearer": []}, {"basic": []}, {"header": []}]
    assert set(described["components"]["securitySchemes"]) == {"bearer", "basic", "header"}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            free = path in ("/v2/health/live", "/v2/health/ready")
            assert ("401" in operation["responses"]) != free
            assert operation.get("security") == ([] if free else None)
    plain = create_app(Settings(app=False)).openapi()
    assert "security" not in plain
    assert "Error" in plain["components"]["schemas"]
