"""The study file of a card: when it is rebuilt, and what happens where there is nothing to look at."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import timm

from train import export
from train.onnx_export import metadata, runtime
from train.study import build, graph
from train.training import models


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of a network with stages, and its study file."""
    folder = tmp_path_factory.mktemp("cards") / "vanilla_vgg16.cifar10"
    shutil.copytree(models.REPOSITORY / "model_cards" / folder.name, folder, ignore=shutil.ignore_patterns("*.onnx"))
    assert build.export(folder) == ""
    return folder


@pytest.fixture
def copy(studied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied, tmp_path / studied.name))


def test_it_states_what_the_server_needs_and_what_it_is_built_from(studied: Path) -> None:
    found = metadata.stated(studied / build.FILE)
    stages = json.loads(found["stages"])
    assert [stage["name"] for stage in stages] == list(graph.STAGES)
    for stage in stages:
        channels, height, width = stage["shape"]
        assert (len(stage["filters"]), len(stage["rows"]), len(stage["columns"])) == (channels, height, width)
    assert found["model"] == "vanilla_vgg16"
    assert found["safetensors_sha256"] == metadata.metadata(studied, "model.onnx")["safetensors_sha256"]
    content = (studied / build.FILE).read_bytes()
    assert str(models.REPOSITORY).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.slow
def test_the_same_weights_give_the_same_file(copy: Path) -> None:
    before = (copy / build.FILE).read_bytes()
    build.export(copy)
    assert (copy / build.FILE).read_bytes() == before


def test_what_is_built_from_something_else_is_outdated(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not build.outdated(copy)
    for module in (build, metadata):
        with monkeypatch.context() as other_code:
            other_code.setattr(module, "_sources_sha256", lambda: "another")
            assert build.outdated(copy)
    for edited, old, new in (
        ("config.json", '"label_names": [', '"label_names": ["none",'),
        ("config.json", '"architecture": "vanilla', '"architecture": "improved'),
    ):
        text = (copy / edited).read_text()
        assert old in text
        (copy / edited).write_text(text.replace(old, new))
        assert build.outdated(copy), new
        (copy / edited).write_text(text)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["onnx_test_accuracy"]["fp32"] += 1
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert not build.outdated(copy)  # it states no accuracy
    with (copy / "model.safetensors").open("ab") as weights:
        weights.write(b"x")
    assert build.outdated(copy)
    (copy / build.FILE).write_bytes(b"half")
    assert build.outdated(copy)


def test_every_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(models.REPOSITORY / "train" / "study", tmp_path / "train" / "study")
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    before = build._sources_sha256.__wrapped__()
    for file in sorted(tmp_path.glob(build.SOURCES)):
        text = file.read_text()
        file.write_text(text + "\n")
        assert build._sources_sha256.__wrapped__() != before, file
        file.write_text(text)


def test_missing_builds_the_study_file_alone_and_only_once(
    twin: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny network tells no stages: its file says so, and is not tried again and again."""
    before = {file: (twin / file).stat().st_mtime_ns for file in metadata.ALL_FILES}
    capfd.readouterr()
    assert export.main(["--missing", str(twin)]) == 0
    said = capfd.readouterr().out
    assert said.startswith(f"Study 1/1 {twin.name} ")
    assert "nothing to look at: the network does not tell timm which stages it has" in said
    assert {file: (twin / file).stat().st_mtime_ns for file in metadata.ALL_FILES} == before
    stated = metadata.stated(twin / build.FILE)
    assert (stated["stages"], stated["reason"][:11]) == ("[]", "the network")
    assert [output.name for output in runtime.session(twin / build.FILE).get_outputs()] == ["same"]
    assert export.main(["--missing", str(twin)]) == 0
    assert capfd.readouterr().out == ""


def test_a_network_that_cannot_be_exported_so_says_why(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> graph.Study:
        raise RuntimeError("no operator for it\nand more")

    monkeypatch.setattr(graph, "build", fail)
    assert build.export(twin) == "no operator for it"
    assert metadata.stated(twin / build.FILE)["reason"] == "no operator for it"
    onnx.checker.check_model(onnx.load(twin / build.FILE))


def test_a_file_that_cannot_be_written_is_told(
    twin: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    assert export.main(["--missing", str(twin)]) == 1
    assert f"{twin.name}: no {build.FILE}: [Errno 28] No space left" in capfd.readouterr().err
    assert not (twin / build.FILE).exists()


def test_triton_gets_no_study_files(twin: Path, tmp_path: Path) -> None:
    assert export.main(["--triton", str(tmp_path / "triton"), str(twin)]) == 0
    assert not (twin / build.FILE).exists()
    assert not list((tmp_path / "triton").rglob("*study*"))


def test_timm_is_asked_for_stages_that_it_knows() -> None:
    assert graph.stage_indices(timm.create_model("vanilla_resnet18", device="meta")) == (0, 2, 4)
    assert graph.stage_indices(timm.create_model("improved_vgg16", device="meta")) == (0, 2, 5)
