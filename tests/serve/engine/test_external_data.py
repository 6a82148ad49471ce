"""Models whose weights are in a file beside the ONNX file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from watching import post

from serve.engine import models
from serve.errors import ModelLoadError
from serve.settings import Settings

Encode = Callable[..., bytes]


def split(model: Any) -> Path:
    """Move the weights of a tiny model to a file of their own; return it."""
    path = model.folder / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=1000)
    return Path(model.folder / "weights.bin")


def test_the_file_may_be_cut_short_while_the_model_is_in_use(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode
) -> None:
    model = tiny(tmp_path / "model").write(ballast=50_000_000)
    weights = split(model)
    assert weights.stat().st_size > 50_000_000
    (pixels,) = model.images(1)
    with running("--models", tmp_path, "--no-app") as server:
        with weights.open("r+b") as file:
            file.truncate(0)
        response = post(f"{server.url}/classify/model", content=encode(pixels))
        assert response.json()["predictions"][0]["index"] == model.best(pixels)
        status, _ = server.stop()
    assert status == 0


@pytest.mark.parametrize("length", [None, 0, 1000])
def test_a_file_that_is_missing_or_short_is_reported(tiny: Any, tmp_path: Path, length: int | None) -> None:
    model = tiny(tmp_path / "model").write()
    weights = split(model)
    if length is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ModelLoadError, match="does not load"):
        models.load(model.folder, Settings(device="cpu"))


def test_a_file_elsewhere_is_refused(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model").write()
    split(model)
    path = model.folder / "model.onnx"
    name = b"weights.bin"
    path.write_bytes(path.read_bytes().replace(name, b"../eights.bin"[: len(name)]))
    with pytest.raises(ModelLoadError, match="valid is a file in the same folder"):
        models.load(model.folder, Settings(device="cpu"))
