"""The ONNX files of a card: their contract, their content, and when they are rebuilt."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import tiny_networks
import torch
from conftest import DATASETS, SAMPLES, torch_logits, without_repeated_blocks
from torch import nn

from train import export
from train.cards import checks
from train.data import loading
from train.onnx_export import build, graph, metadata, quantize, runtime, small_maps
from train.training import models
from zoo.calibration import calibrated
from zoo.catalog import NETWORKS

PIXELS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("file", metadata.ALL_FILES)
def test_onnx_contract(card: Path, dataset: loading.Dataset, file: str) -> None:
    session = runtime.session(card / file)
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", list(PIXELS[dataset.name]))
    assert isinstance(image.shape[0], str)
    outputs = {output.name: (output.type, output.shape[1]) for output in session.get_outputs()}
    assert outputs == {"logits": ("tensor(float)", 10), "probabilities": ("tensor(float)", 10)}
    pixels = dataset.test.images.permute(0, 2, 3, 1).contiguous().numpy()
    whole, _ = session.run(["logits", "probabilities"], {"image": pixels[:50]})
    for batch in (1, 3, 50):
        logits, probabilities = session.run(["logits", "probabilities"], {"image": pixels[:batch]})
        assert logits.shape == probabilities.shape == (batch, 10)
        np.testing.assert_allclose(logits, whole[:batch], atol=1e-4)
        config = json.loads((card / "config.json").read_text())
        expected = calibrated(torch.from_numpy(logits), config["temperature"], config["curvature"])
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "variant", "file"),
    [("fp32", None, "model.onnx"), ("int8", None, "model.int8.onnx"), ("int8", "amx", "model.int8-amx.onnx")],
)
def test_onnx_metadata(card: Path, dataset: loading.Dataset, precision: str, variant: str | None, file: str) -> None:
    found = runtime.session(card / file).get_modelmeta().custom_metadata_map
    metrics = json.loads((card / "metrics.json").read_text())
    assert (found["model"], found["tag"], found["precision"]) == ("tiny_net", dataset.name, precision)
    assert found.get("variant") == variant
    assert json.loads(found["labels"]) == list(dataset.class_names)
    config = json.loads((card / "config.json").read_text())
    numbers = {key: json.loads(found[key]) for key in metadata.CALIBRATION if key in found}
    assert numbers == {key: config[key] for key in metadata.CALIBRATION if config[key] is not None}
    digest = hashlib.sha256((card / "model.safetensors").read_bytes()).hexdigest()
    assert found["safetensors_sha256"] == metrics["safetensors_sha256"] == digest
    images, labels = dataset.test.images, dataset.test.labels.numpy()
    accuracy = 100 * np.mean(runtime.predict(card / file, images).argmax(1) == labels)
    assert float(found["accuracy"]) == pytest.approx(accuracy, abs=0.006)
    versions = json.loads(found["library_versions"])
    assert (versions["timm"], versions["onnxruntime"]) == (timm.__version__, onnxruntime.__version__)
    cfg = json.loads(found["pretrained_cfg"])
    assert cfg["input_size"] == [PIXELS[dataset.name][2], *PIXELS[dataset.name][:2]]


@pytest.mark.parametrize("file", metadata.ALL_FILES)
def test_onnx_holds_no_path_of_this_machine(card: Path, file: str) -> None:
    content = (card / file).read_bytes()
    for path in (models.REPOSITORY, Path.home(), Path(torch.__file__).parent, Path(__file__).parent):
        assert str(path).encode() not in content, path
    assert b"site-packages" not in content
    assert not re.search(rb"\.py\b", content)


def test_int8_computes_in_int8(card: Path) -> None:
    graph = onnx.load(card / "model.int8.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 3
    kept = {tensor.name: tensor for tensor in graph.initializer}
    for name in ("model.conv1.weight", "model.conv2.weight", "model.fc.weight"):
        assert name not in kept
        assert kept[f"{name}_quantized"].data_type == onnx.TensorProto.INT8


def test_int8_has_a_scale_for_each_channel_and_none_before_the_first_convolution() -> None:
    """What comes before is resized and normalised in float."""
    model = models.create("tiny_net", "cifar10", 10, 3, side=48).eval()
    images = loading.load("cifar10", SAMPLES).train.images[:8].permute(0, 2, 3, 1).numpy()
    quantized = quantize.quantize(graph.build(model, (32, 32, 3)), images).graph
    kept = {tensor.name: tensor for tensor in quantized.initializer}
    for name, channels in (("conv1", 8), ("conv2", 16), ("fc", 10)):
        assert kept[f"model.{name}.weight_scale"].dims == [channels]
    kinds = [node.op_type for node in quantized.node]
    assert "MatMul" in kinds  # the resize
    last = len(kinds) - kinds[::-1].index("MatMul")
    assert "QuantizeLinear" not in kinds[:last]


@pytest.mark.parametrize("name", ["improved_resnet18", "vanilla_googlenet"])
def test_int8_stays_int8_from_the_first_convolution_to_the_pool(name: str, tmp_path: Path) -> None:
    """What ONNX Runtime runs: a conversion to float and back before each ReLU would be a tenth of the time."""
    model = without_repeated_blocks(timm.create_model(name)).eval()
    proto = graph.build(model, (32, 32, 3))
    images = loading.load("cifar10", SAMPLES).train.images[:16].permute(0, 2, 3, 1).numpy()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    int8 = quantize.quantize(proto, images)
    small_maps.as_products(int8)
    onnxruntime.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    convolutions = [index for index, kind in enumerate(kinds) if kind in ("QLinearConv", "QGemm")]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    between = set(kinds[convolutions[0] : convolutions[-1]])
    moved = {"Transpose", "Reshape", "Pad", "Gather"}  # bytes, on the last maps
    pooled = {
        "MaxPool",
        "NhwcMaxPool",
        "ReduceMean",
        "DequantizeLinear",
        "QuantizeLinear",
    }  # the last one's mean is float
    assert between <= {"QLinearConv", "QGemm", "QLinearAdd", "QLinearConcat"} | moved | pooled
    before_the_mean = kinds[convolutions[0] : kinds.index("ReduceMean") - 1]
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(before_the_mean)


def test_int8_is_the_same_where_processors_multiply_in_tiles(card: Path, dataset: loading.Dataset) -> None:
    images = dataset.test.images.permute(0, 2, 3, 1).contiguous().numpy()
    plain, amx = (card / "model.int8.onnx", card / "model.int8-amx.onnx")
    expected = runtime.session(plain).run(None, {"image": images})
    for found, wanted in zip(runtime.session(amx).run(None, {"image": images}), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    kept = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(amx).graph.initializer}
    for name in ("model.conv1.weight", "model.conv2.weight"):
        assert (kept[f"{name}_zero_point"] == -1).all()


def test_the_same_weights_give_the_same_files(card: Path) -> None:
    before = {file: (card / file).read_bytes() for file in metadata.ALL_FILES}
    assert [path.name for path in build.export(card)] == list(before)
    assert {file: (card / file).read_bytes() for file in before} == before


def test_what_is_built_from_something_else_is_outdated(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content, whatever the times of the files."""
    assert not metadata.outdated(twin)
    for file in twin.glob("*.json"):
        os.utime(file)
    assert not metadata.outdated(twin)
    with monkeypatch.context() as other_code:
        other_code.setattr(metadata, "_sources_sha256", lambda: "another")
        for name in metadata.ALL_FILES:
            assert metadata.differing(twin, name) == ["sources_sha256"]
    for edited, old, new in (
        ("config.json", '"architecture": "tiny_net"', '"architecture": "tiny_plain"'),
        ("config.json", '"label_names": [', '"label_names": ["none",'),
        ("config.json", "0.25", "0.5"),
        ("config.json", '"temperature": ', '"temperature": 1'),
        ("config.json", '"curvature": ', '"curvature": 1'),
        ("config.json", '"abstain_below": ', '"abstain_below": 0.5, "other": '),
        ("metrics.json", '"int8": ', '"int8": 1'),
    ):
        text = (twin / edited).read_text()
        assert old in text
        (twin / edited).write_text(text.replace(old, new))
        assert metadata.outdated(twin), new
        (twin / edited).write_text(text)
    assert not metadata.outdated(twin)
    weights = (twin / "model.safetensors").read_bytes()
    (twin / "model.safetensors").write_bytes(weights[:-1] + b"x")
    assert metadata.outdated(twin)
    (twin / "model.safetensors").write_bytes(weights)
    for name in metadata.ALL_FILES:
        for damage in (Path.unlink, lambda file: file.write_bytes(b"half")):
            shutil.copy(twin / name, twin / "kept")
            damage(twin / name)
            assert metadata.outdated(twin)
            (twin / "kept").replace(twin / name)
    assert not metadata.outdated(twin)
    shutil.copy(twin / "model.int8.onnx", twin / "model.int8-amx.onnx")
    assert metadata.differing(twin, "model.int8-amx.onnx") == ["variant"]


@pytest.mark.parametrize("name", metadata.ALL_FILES)
def test_a_card_without_one_of_its_files_is_no_verified_card(name: str, twin: Path) -> None:
    (twin / name).unlink()
    (line,) = checks.differences(twin, SAMPLES, True, lambda dataset, model: None)
    assert line.startswith(f"{name} is not built")


@pytest.mark.parametrize("library", ["onnx", "onnx-ir", "onnxruntime", "onnxscript", "timm", "torch"])
def test_files_of_other_library_versions_are_outdated(
    library: str, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_another(name: str) -> str:
        return "99.9" if name == library else version(name)

    monkeypatch.setattr(metadata, "version", of_another)
    if library == "onnxruntime":  # which goes by several names as a package
        monkeypatch.setattr(metadata, "onnxruntime", SimpleNamespace(__version__="99.9"))
    for name in metadata.ALL_FILES:
        assert metadata.differing(twin, name) == ["library_versions"]
    assert metadata.outdated(twin)
    assert metadata._library_versions()[library] == "99.9"


def test_the_build_of_torch_does_not_count(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU has another one than a machine without; the content is the same."""
    number = version("torch").partition("+")[0]
    for build_of_torch in (number, f"{number}+cpu", f"{number}+cu130"):
        monkeypatch.setattr(metadata, "version", lambda name: build_of_torch if name == "torch" else version(name))  # noqa: B023
        assert not metadata.outdated(twin)


@pytest.mark.parametrize("name", metadata.SOURCES)
def test_every_source_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("train", "zoo"):
        shutil.copytree(models.REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("samples"))
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    before = metadata._sources_sha256.__wrapped__()
    with max(tmp_path.glob(name)).open("a") as file:
        file.write("\n")
    assert metadata._sources_sha256.__wrapped__() != before


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_export_goes_on_after_a_failure(
    jobs: str, twin: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.jobs._share_cores", tiny_networks.share_cores)  # so that the processes know them
    broken = Path(shutil.copytree(twin, twin.parent / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    (twin / "model.int8.onnx").unlink()
    capfd.readouterr()
    assert export.main(["--missing", "--jobs", jobs, str(broken), str(twin)]) == 1
    assert not metadata.outdated(twin)
    written, said = capfd.readouterr()
    line, study = written.splitlines()
    assert re.fullmatch(rf"Study 1/1 {twin.name} \d+ s \(nothing to look at: .*\)", study)
    assert re.fullmatch(rf"ONNX [12]/2 {twin.name} \d+ s \(.*\)", line)
    assert re.findall(r"(model\.[\w.-]*onnx) \d+\.\d MB", line) == [*metadata.ALL_FILES]
    (line,) = said.strip().splitlines()
    assert line.startswith("export.py: broken: ")
    assert export.main(["--missing", "--jobs", jobs, str(twin)]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_process_that_dies_is_told(twin: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As when memory runs out."""
    (twin / "model.int8.onnx").unlink()
    other = Path(shutil.copytree(twin, twin.parent / "other"))

    class Pool(ProcessPoolExecutor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(os._exit, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.jobs.ProcessPoolExecutor", Pool)
        assert export.main(["--jobs", "2", str(twin), str(other)]) == 1
    assert "was killed" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        export.main(["--jobs", "0", str(twin)])
    assert "--jobs 0" in capfd.readouterr().err


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_always_looks_for_outdated_files(tmp_path: Path) -> None:
    for name in (".demo", ".test", ".onnx"):
        (tmp_path / name).touch()
    looks = "python train/export.py --missing"
    for target, line in {"onnx": looks, "verify": looks, "test": looks, "demo": "python -m serve --build yes"}.items():
        command = ["make", "-n", target, f"VENV={tmp_path}"]
        done = subprocess.run(command, cwd=models.REPOSITORY, capture_output=True, text=True, check=True)
        assert f"{tmp_path}/bin/{line}" in done.stdout, target


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dataset_name", DATASETS)
def test_every_network_exports(name: str, dataset_name: str, tmp_path: Path) -> None:
    """Random weights, real images: torch and ONNX agree."""
    torch.manual_seed(0)
    model = timm.create_model(f"{name}.{dataset_name}").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var = torch.empty(module.num_features).uniform_(0.5, 1.5)
    onnx.save(graph.build(model, PIXELS[dataset_name]), tmp_path / "model.onnx")
    images = loading.load(dataset_name, SAMPLES).test.images[:20]
    expected = torch_logits(model, images)
    found = runtime.predict(tmp_path / "model.onnx", images)
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())
