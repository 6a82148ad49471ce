"""What clients are told of models that do not load."""

from pathlib import Path

import pytest

from serve.engine.repository import Repository
from serve.settings import Settings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{models}/a has no model.onnx; see {models}/a/b", "m y/a has no model.onnx; see m y/a/b"),
        ("cannot open /usr/lib/x/libcuda.so.1: no such file", "cannot open libcuda.so.1: no such file"),
        ('path: "/srv/data/a.bin" allowed directory: "/srv/data"', 'path: "a.bin" allowed directory: "data"'),
        ("see https://example.com/a/b, model_cards/a or 3/4/5", "see https://example.com/a/b, model_cards/a or 3/4/5"),
    ],
)
def test_absolute_paths_are_shortened(tmp_path: Path, text: str, shown: str) -> None:
    models = tmp_path / "m y"
    assert Repository(Settings(models=models))._without_paths(text.format(models=models)) == shown
