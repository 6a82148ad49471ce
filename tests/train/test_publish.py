"""From a run folder to a published model: card, weights, ONNX; everything says the same of the same images."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import SAMPLES, reset_accelerate
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

from train import data, evaluate, export, fit, models, publish
from train.compact import compact
from train.preprocess import Preprocess

DATASETS = ("mnist", "cifar10")
PIXELS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture(scope="module", params=DATASETS)
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / f"run-{request.param}"
    reset_accelerate()
    arguments = ("--model", "tiny_net", "--dataset", request.param, "--data-dir", SAMPLES, "--epochs", 2)
    more = ("--batch-size", 32, "--learning-rate", 0.05, "--output-dir", folder)
    assert fit.main([str(argument) for argument in (*arguments, *more)]) == 0
    return folder


@pytest.fixture(scope="module")
def card(run_folder: Path) -> Iterator[Path]:
    reset_accelerate()
    name = f"tiny_net.{json.loads((run_folder / 'args.json').read_text())['dataset']}"
    yield publish.publish(run_folder, run_folder.parent / name, SAMPLES, False)
    reset_accelerate()


@pytest.fixture
def dataset(card: Path) -> data.Dataset:
    return data.load(card.name.partition(".")[2], SAMPLES)


def torch_logits(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.eval()(Preprocess(models.pretrained_cfg(model))(images)).numpy()


def test_the_folder_is_complete(card: Path) -> None:
    expected = "README.md config.json confusion_matrix.png curves.png log.csv metrics.json model.int8.onnx model.onnx"
    assert sorted(path.name for path in card.iterdir()) == [*expected.split(), "model.safetensors"]
    assert card.stat().st_mode & 0o777 == card.parent.stat().st_mode & 0o777 | 0o055
    assert not list(card.parent.glob(".publishing-*"))


def test_torch_local_dir_and_onnx_agree(card: Path, run_folder: Path, dataset: data.Dataset) -> None:
    """On 1,000 real test images; beside the run's own weights only half precision lies between."""
    images = dataset.test.images
    assert len(images) == 1000
    logits = torch_logits(timm.create_model(f"local-dir:{card}", pretrained=True), images)
    found = export.predict(card / "model.onnx", images)
    assert np.abs(found - logits).max() < 1e-3
    assert (found.argmax(1) == logits.argmax(1)).all()
    trained = torch_logits(models.load_run(run_folder)[0], images)
    assert 0 < np.abs(trained - logits).max() < 0.05
    int8 = export.predict(card / "model.int8.onnx", images)
    assert np.mean(int8.argmax(1) == logits.argmax(1)) > 0.95
    assert np.abs(int8 - logits).max() > 1e-3  # it is another network


def test_stored_weights_are_half_precision_matrices(card: Path, run_folder: Path) -> None:
    trained, stored = (load_file(folder / "model.safetensors") for folder in (run_folder, card))
    assert trained.keys() == stored.keys()
    for name, tensor in stored.items():
        expected = trained[name].half() if trained[name].ndim > 1 else trained[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("file", export.FILES.values())
def test_onnx_contract(card: Path, dataset: data.Dataset, file: str) -> None:
    session = export.session(card / file)
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
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("precision", "file"), export.FILES.items())
def test_onnx_metadata(card: Path, dataset: data.Dataset, precision: str, file: str) -> None:
    metadata = export.session(card / file).get_modelmeta().custom_metadata_map
    metrics = json.loads((card / "metrics.json").read_text())
    assert (metadata["model"], metadata["tag"], metadata["precision"]) == ("tiny_net", dataset.name, precision)
    assert json.loads(metadata["labels"]) == list(dataset.class_names)
    digest = hashlib.sha256((card / "model.safetensors").read_bytes()).hexdigest()
    assert metadata["safetensors_sha256"] == metrics["safetensors_sha256"] == digest
    images, labels = dataset.test.images, dataset.test.labels.numpy()
    accuracy = 100 * np.mean(export.predict(card / file, images).argmax(1) == labels)
    assert float(metadata["accuracy"]) == pytest.approx(accuracy, abs=0.006)
    cfg = json.loads(metadata["pretrained_cfg"])
    assert cfg["input_size"] == [PIXELS[dataset.name][2], *PIXELS[dataset.name][:2]]


@pytest.mark.parametrize("file", export.FILES.values())
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


def test_the_same_weights_give_the_same_files(card: Path) -> None:
    before = {file: (card / file).read_bytes() for file in export.FILES.values()}
    assert [path.name for path in export.export(card)] == list(before)
    assert {file: (card / file).read_bytes() for file in before} == before


def test_card_states_the_figures_of_its_weights(card: Path, dataset: data.Dataset) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    parsed = ModelCard.load(card / "README.md")
    (result,) = parsed.data.eval_results
    assert result.metric_value == pytest.approx(metrics["test_accuracy"] / 100, abs=1e-9)
    assert (result.metric_type, result.dataset_split) == ("accuracy", "test")
    assert result.dataset_type == data.HUB_IDS[dataset.name]
    assert (parsed.data.library_name, parsed.data.license) == ("timm", "apache-2.0")
    assert f"{metrics['test_accuracy']:.2f} %" in parsed.text
    logits = torch_logits(timm.create_model(f"local-dir:{card}", pretrained=True), dataset.test.images)
    right = (logits.argmax(1) == dataset.test.labels.numpy()).mean()
    assert metrics["test_accuracy"] == pytest.approx(100 * right, abs=0.11)


def test_evaluate_prints_what_the_card_states(card: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    capsys.readouterr()
    assert evaluate.main([str(card), "--data-dir", str(SAMPLES), "--output-dir", str(tmp_path)]) == 0
    line, *classes = capsys.readouterr().out.splitlines()
    assert f"{card.name}: test accuracy {metrics['test_accuracy']:.2f} % on 1,000 images" in line
    for (label, accuracy), printed in zip(metrics["per_class_accuracy"].items(), classes, strict=False):
        assert printed.split() == [label, f"{accuracy:.2f}", "%"]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["confusion_matrix"] == metrics["confusion_matrix"]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"figures.json", "confusion_matrix.png", "mistakes.png", "components.png"}


@pytest.mark.parametrize(("runtime", "precision"), [("onnx", "fp32"), ("onnx-int8", "int8")])
def test_evaluate_with_onnx(card: Path, capsys: pytest.CaptureFixture[str], runtime: str, precision: str) -> None:
    stated = json.loads((card / "metrics.json").read_text())["onnx_test_accuracy"][precision]
    capsys.readouterr()
    assert evaluate.main([str(card), "--data-dir", str(SAMPLES), "--runtime", runtime]) == 0
    assert f"test accuracy {stated:.2f} %" in capsys.readouterr().out


def test_failed_publish_leaves_the_old_card(card: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in card.iterdir()}

    before = contents()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish.card, "render", fail)
    with pytest.raises(OSError, match="No space left"):
        publish.publish(run_folder, card, SAMPLES, False)
    assert contents() == before
    assert not list(card.parent.glob(".publishing-*"))


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (publish.main, ["/no/such/run"], ["/no/such/run", "args.json"]),
        (evaluate.main, ["no_such_model"], ["'no_such_model'", "published"]),
        (export.main, ["no_such_model"], ["'no_such_model'", "published"]),
    ],
)
def test_mistakes_get_one_line(
    main: Callable[[list[str]], int], arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words)


def test_unfinished_run_cannot_be_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "args.json").write_text("{}")
    assert publish.main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_weights_too_large_for_half_precision_are_refused() -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 1e6)
    with pytest.raises(ValueError, match=r"weight does not fit half precision.*--full-precision"):
        compact(model, torch.zeros(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.ZOO)
@pytest.mark.parametrize("dataset_name", DATASETS)
def test_every_network_exports(name: str, dataset_name: str, tmp_path: Path) -> None:
    """Random weights, real images: torch and ONNX agree."""
    torch.manual_seed(0)
    model = timm.create_model(f"{name}.{dataset_name}").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    onnx.save(export.build(model, PIXELS[dataset_name]), tmp_path / "model.onnx")
    images = data.load(dataset_name, SAMPLES).test.images[:20]
    expected = torch_logits(model, images)
    found = export.predict(tmp_path / "model.onnx", images)
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())
