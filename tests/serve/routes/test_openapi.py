"""The API's description against the server: schemathesis derives valid and invalid requests from it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve.api import create_app
from serve.engine.models import OUTPUTS
from serve.errors import BadRequest
from serve.routes.v2_requests import INDEX, INFER, LOAD, UNLOAD, Body, InferRequest
from serve.settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_schemathesis(tiny: Any, tmp_path: Path, running: Any, known: bool) -> None:
    tiny(tmp_path / "models" / "model").write()
    configuration = tmp_path / "schemathesis.toml"
    parameters = '[parameters]\n"path.model" = "model"\n"path.version" = "1"\n'
    configuration.write_text(parameters if known else "")
    with running("--models", tmp_path / "models", "--no-app") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)]
        command += ["run", f"{server.url}/openapi.json", "--max-examples", "20", "--seed", "1"]
        # No schema can say what an image is, or which shape a model takes: requests that fit it may be refused.
        command += ["--exclude-checks", "positive_data_acceptance"]
        # After an unload no model would be left.
        command += ["--exclude-path-regex", "unload"] if known else []
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_description_asks_for_the_key() -> None:
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


def test_what_is_checked_is_what_is_described() -> None:
    paths = create_app(Settings(app=False)).openapi()["paths"]

    def described(path: str) -> dict[str, Any]:
        return dict(paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"])

    infer = described("/v2/models/{model}/infer")
    assert set(infer) == set(InferRequest.__annotations__) == {"id", "parameters", "inputs", "outputs"}
    tensor = infer["inputs"]["items"]["properties"]
    assert tensor["name"]["const"] == "image"
    assert tensor["shape"]["items"] == {"type": "integer", "minimum": 1}
    assert (tensor["shape"]["minItems"], tensor["shape"]["maxItems"]) == (1, 4)
    (listed, _) = infer["outputs"]["anyOf"]
    assert tuple(listed["items"]["properties"]["name"]["enum"]) == (*OUTPUTS, "abstained")
    assert "$ref" not in str(infer)  # a reference would point at nothing
    assert described("/v2/repository/index")["ready"]["type"] == "boolean"


@pytest.mark.parametrize("body", [INFER, INDEX, LOAD, UNLOAD])
def test_every_wrong_field_is_named(body: Body[Any]) -> None:
    with pytest.raises(BadRequest, match="the request must be an object, not list"):
        body.check([])
    right = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 1]}]}
    body.check(right)
    for field in body.schema()["properties"]:
        with pytest.raises(BadRequest, match=field):
            body.check({**right, field: -1.5}, shape=["n"])
