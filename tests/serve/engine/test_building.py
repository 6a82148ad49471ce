"""Models whose ONNX files are built while others are served, by a process that stands in for the export."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from watching import eventually

from serve import __main__ as command
from serve import default_models
from serve.engine import building
from serve.engine.batching import Engine
from serve.errors import ModelNotReady
from serve.settings import Settings
from train.training import user_cards

# Builds a model when the test puts a file `go` into its folder, and leaves a process of its own behind.
STAND_IN = """
import pathlib, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL)
paths = [pathlib.Path(path) for path in sys.argv[1:]]
paths[0].with_name("pid").write_text(str(helper.pid))
for number, path in enumerate(paths, start=1):
    while not (path / "go").exists():
        time.sleep(0.01)
    if (path / "built").exists():
        (path / "built").replace(path / "model.onnx")
        print(f"ONNX {number}/{len(paths)} {path.name} 3 s (model.onnx 0.1 MB)", flush=True)
helper.kill()
sys.exit(1)
"""


@pytest.fixture
def folder(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models with weights alone: the stand-in builds `a` and `b c`, and fails with `d`."""
    monkeypatch.setattr(building, "COMMAND", (sys.executable, "-c", STAND_IN))
    for name in ("a", "b c", "d"):
        model = tiny(tmp_path / name).write()
        (model.folder / "model.safetensors").touch()
        (model.folder / "model.onnx").rename(model.folder / "built")
    (tmp_path / "d" / "built").unlink()
    return tmp_path


def test_each_model_is_served_as_soon_as_it_is_built(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="serve")
    engine = Engine(Settings(models=folder, build="yes"))
    engine.start()
    try:
        assert not engine.wait(0.5)
        assert engine.unready == "loading models"
        with pytest.raises(ModelNotReady, match="its ONNX files are being built"):
            engine.repository.get("a")
        (folder / "a" / "go").touch()
        assert engine.wait(60)
        assert list(engine.models()) == ["a"]
        assert {entry.name: entry.state for entry in engine.repository.index()} == {
            "a": "READY",
            "b c": "LOADING",
            "d": "LOADING",
        }
        (folder / "b c" / "go").touch()
        assert eventually(lambda: "b c" in engine.models())
        (folder / "d" / "go").touch()
        assert eventually(lambda: engine.repository.index()[-1].reason == "its ONNX files could not be built")
    finally:
        engine.close()
    lines = [record.getMessage() for record in caplog.records]
    assert "ONNX 2/3 b c 3 s (model.onnx 0.1 MB)" in lines
    assert "not all ONNX files could be built" in lines


def test_without_any_model_built_it_is_settled_all_the_same(folder: Path) -> None:
    for name in ("a", "b c", "d"):
        (folder / name / "built").unlink(missing_ok=True)
        (folder / name / "go").touch()
    with Engine(Settings(models=folder, build="yes")) as engine:
        assert engine.unready == "no model is loaded"


def test_the_end_of_the_server_ends_the_building(folder: Path) -> None:
    engine = Engine(Settings(models=folder, build="yes"))
    engine.start()
    assert eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    helper = Path("/proc", (folder / "pid").read_text())
    assert not helper.parent.exists() or helper.exists()
    engine.close()
    assert eventually(lambda: not helper.exists() or "Z" in (helper / "stat").read_text().split())


def test_which_models_can_be_built(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").touch()
    tiny(tmp_path / "both").write().folder.joinpath("model.safetensors").touch()
    tiny(tmp_path / "built").write()
    assert building.buildable(tmp_path) == ["both", "weights"]
    assert building.unbuilt(tmp_path) == ["weights"]


@pytest.mark.parametrize("chosen", ["auto", "yes", "no"])
@pytest.mark.parametrize("torch", [True, False])
def test_when_files_are_built(
    chosen: str, torch: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the default folder without being told; elsewhere on request alone, and never without the packages."""
    monkeypatch.setattr(building, "installed", lambda: torch)
    settings = Settings(models=folder, build=chosen)

    def decided(default: Path) -> str:
        monkeypatch.setattr(command, "default_models", lambda: default)
        return command.with_build_decided(settings).build

    if chosen == "yes" and not torch:
        with pytest.raises(SystemExit):
            decided(folder)
        assert "--build yes needs more packages: pip install 'deep-image-zoo[train]'" in capsys.readouterr().err
        return
    assert decided(folder.parent) == ("yes" if chosen == "yes" else "no")
    if chosen == "auto" and not torch:
        with pytest.raises(SystemExit):  # none of the models could be served
            decided(folder)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("building them needs more packages: pip install 'deep-image-zoo[train]'")
        (folder / "a" / "built").rename(folder / "a" / "model.onnx")
        assert decided(folder) == "no"
        return
    assert decided(folder) == ("no" if chosen == "no" else "yes")
    for name in ("a", "b c", "d"):
        (folder / name / "model.onnx").touch()
    settings = replace(settings)
    assert decided(folder) == ("yes" if chosen == "yes" else "no")


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the working directory, else the checkout's, else the user's copies of the package's."""
    packages, here = tmp_path / "packages", tmp_path / "here"
    packages.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(default_models, "PACKAGES", packages)
    monkeypatch.setattr(default_models, "PACKAGED_CARDS", packages / "zoo" / "model_cards")
    assert default_models.default_models() == Path("model_cards")
    (packages / "zoo" / "model_cards").mkdir(parents=True)
    assert default_models.default_models() == default_models.user_models() == user_cards.USER_CARDS
    (packages / "model_cards").mkdir()
    assert default_models.default_models() == packages / "model_cards"
    (here / "model_cards").mkdir()
    assert default_models.default_models() == Path("model_cards")
    assert default_models.with_models({"models": here}) == {"models": here}
    assert default_models.with_models({"port": 1}) == {"port": 1, "models": Path("model_cards")}
