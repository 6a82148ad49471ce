"""From a run folder to a published model: card, weights, ONNX; everything says the same of the same images."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from conftest import SAMPLES, reset_accelerate
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from train import card as readme
from train import data, evaluate, export, fit, models, publish, verify
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
def twin(card: Path, tmp_path: Path) -> Path:
    """A copy of the card."""
    return Path(shutil.copytree(card, tmp_path / card.name))


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


@pytest.mark.parametrize("name", ["improved_resnet18", "vanilla_googlenet"])
def test_int8_stays_int8_from_the_first_convolution_to_the_pool(name: str, tmp_path: Path) -> None:
    """What ONNX Runtime runs: a conversion to float and back before each ReLU would be a tenth of the time."""
    model = timm.create_model(name).eval()
    proto = export.build(model, (32, 32, 3))
    images = data.load("cifar10", SAMPLES).train.images[:16].permute(0, 2, 3, 1).numpy()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    int8 = export.quantize(proto, images).SerializeToString()
    onnxruntime.InferenceSession(int8, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    convolutions = [index for index, kind in enumerate(kinds) if kind == "QLinearConv"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    between = set(kinds[convolutions[0] : convolutions[-1]])
    assert between <= {"QLinearConv", "QLinearAdd", "QLinearConcat", "MaxPool", "NhwcMaxPool"}


def test_the_same_weights_give_the_same_files(card: Path) -> None:
    before = {file: (card / file).read_bytes() for file in export.FILES.values()}
    assert [path.name for path in export.export(card)] == list(before)
    assert {file: (card / file).read_bytes() for file in before} == before


def test_what_is_built_from_something_else_is_outdated(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content, whatever the times of the files."""
    assert not export.outdated(twin)
    for file in twin.glob("*.json"):
        os.utime(file)
    assert not export.outdated(twin)
    with monkeypatch.context() as other_code:
        other_code.setattr(export, "_sources_sha256", lambda: "another")
        assert export.differing(twin, "int8") == ["sources_sha256"]
    for file, old, new in (
        ("config.json", '"architecture": "tiny_net"', '"architecture": "tiny_plain"'),
        ("config.json", '"label_names": [', '"label_names": ["none",'),
        ("config.json", "0.25", "0.5"),
        ("metrics.json", '"int8": ', '"int8": 1'),
    ):
        text = (twin / file).read_text()
        assert old in text
        (twin / file).write_text(text.replace(old, new))
        assert export.outdated(twin), new
        (twin / file).write_text(text)
    assert not export.outdated(twin)
    weights = (twin / "model.safetensors").read_bytes()
    (twin / "model.safetensors").write_bytes(weights[:-1] + b"x")
    assert export.outdated(twin)
    (twin / "model.safetensors").write_bytes(weights)
    for damage in (Path.unlink, lambda file: file.write_bytes(b"half")):
        shutil.copy(twin / "model.onnx", twin / "kept")
        damage(twin / "model.onnx")
        assert export.outdated(twin)
        os.replace(twin / "kept", twin / "model.onnx")


@pytest.mark.parametrize("name", export.SOURCES)
def test_every_source_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("train", "zoo"):
        shutil.copytree(models.REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("samples"))
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    before = export._sources_sha256.__wrapped__()
    with sorted(tmp_path.glob(name))[-1].open("a") as file:
        file.write("\n")
    assert export._sources_sha256.__wrapped__() != before


def test_export_goes_on_after_a_failure(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Path(shutil.copytree(twin, twin.parent / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    (twin / "model.int8.onnx").unlink()
    capsys.readouterr()
    assert export.main(["--missing", str(broken), str(twin)]) == 1
    assert not export.outdated(twin)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("export.py: broken: ")
    assert export.main(["--missing", str(twin)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_always_looks_for_outdated_files(tmp_path: Path) -> None:
    for name in (".demo", ".test", ".onnx"):
        (tmp_path / name).touch()
    for target in ("onnx", "demo", "verify", "test"):
        command = ["make", "-n", target, f"VENV={tmp_path}"]
        done = subprocess.run(command, cwd=models.REPOSITORY, capture_output=True, text=True, check=True)
        assert f"{tmp_path}/bin/python train/export.py --missing" in done.stdout, target


def test_update_states_what_the_onnx_files_have_come_to(twin: Path) -> None:
    truth = json.loads((twin / "metrics.json").read_text())
    stated = json.loads((twin / "metrics.json").read_text())
    for figures in (stated, stated["samples"]):
        figures["onnx_test_accuracy"] = {"fp32": 1.0, "int8": 2.0}
    (twin / "metrics.json").write_text(json.dumps(stated))
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 0
    assert json.loads((twin / "metrics.json").read_text()) == truth
    assert not export.outdated(twin)
    assert not list(verify.differences(twin, SAMPLES, samples=False)) or list(verify.broken_bounds(truth))


def test_update_keeps_the_figures_of_the_weights(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lie = json.loads((twin / "metrics.json").read_text()) | {"test_accuracy": 99.9, "safetensors_sha256": "other"}
    (twin / "metrics.json").write_text(json.dumps(lie))
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 0
    assert json.loads((twin / "metrics.json").read_text()) == lie
    (twin / "log.csv").unlink()
    capsys.readouterr()
    assert verify.main([str(twin), "--update", "--data-dir", str(SAMPLES)]) == 2
    assert capsys.readouterr().err == f"verify.py: {twin.name}: log.csv missing\n"


def test_verify_measures_the_whole_test_split(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verified() -> tuple[int, str]:
        capsys.readouterr()
        status = verify.main([str(twin), "--data-dir", str(SAMPLES)])
        return status, capsys.readouterr().out

    truth = json.loads((twin / "metrics.json").read_text())
    bounds = list(verify.broken_bounds(truth))  # two epochs make no network that holds them for certain
    assert verified() == (1 if bounds else 0, f"{twin.name}: {'; '.join(bounds) or 'as stated'}\n")
    confusion = np.array(truth["confusion_matrix"])
    confusion[:, [0, 1]] = confusion[:, [1, 0]]
    (twin / "metrics.json").write_text(json.dumps(truth | {"confusion_matrix": confusion.tolist()}))
    status, text = verified()
    assert status == 1
    assert "the confusion matrix is another than the card's" in text
    assert "the card's accuracy does not follow from its own confusion matrix" in text


def test_training_command_repeats_the_run(card: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, metrics = (json.loads((run_folder / "args.json").read_text()), json.loads((card / "metrics.json").read_text()))
    monkeypatch.setattr(fit, "emulates_bf16", lambda: False)

    def parsed(metrics: dict[str, Any]) -> Any:
        return fit.parse(shlex.split(readme.command(metrics).partition("train/fit.py ")[2]))

    args = parsed(metrics)
    assert (args.model, args.dataset, args.seed, args.pretrained) == ("tiny_net", run["dataset"], 0, None)
    assert (args.batch_size, args.learning_rate, args.epochs) == (32, 0.05, 2)
    assert json.loads(json.dumps(vars(fit.recipe_for(args)), default=vars)) == run["settings"]
    assert "git checkout" not in (card / "README.md").read_text()

    more = {"model_kwargs": {"aux": True, "act": "a b"}, "pretrained": "published", "overfit": 32}
    args = parsed(metrics | more)
    assert fit.model_kwargs(args.model_kwargs) == more["model_kwargs"]
    assert (args.pretrained, args.overfit) == ("published", 32)
    assert parsed(metrics | {"pretrained": "colour"}).pretrained == "colour"


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ("abc", "at commit `abc`: `git checkout abc` before the command"),
        ("abc+", "at commit `abc` with changes that were not committed"),
        (None, "at a commit that is not known"),
    ],
)
def test_card_says_where_the_recipe_stood_that_no_flag_gives(twin: Path, commit: str | None, words: str) -> None:
    metrics = json.loads((twin / "metrics.json").read_text()) | {"git_commit": commit}
    del metrics["settings"]["sizes"]  # from before there were any: nothing has changed for this network
    metrics["settings"] |= {"nesterov": False, "weight_decay": 0.1, "batch_size": 128}
    (twin / "metrics.json").write_text(json.dumps(metrics))
    text = readme.render(twin)
    assert f"Recipe `fast` has changed since, in nesterov and weight decay. It was as this run had it {words}." in text
    assert "--batch-size 128 " in text  # today's value, but that commit's may be another


def test_publish_warns_of_broken_bounds(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((twin / "metrics.json").read_text())
    metrics |= {"trained_test_accuracy": metrics["test_accuracy"] + 0.3}
    metrics["onnx_test_accuracy"] |= {"int8": metrics["onnx_test_accuracy"]["fp32"] - 0.4}
    (twin / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(publish, "publish", lambda *_: twin)
    assert publish.main(["run"]) == 0
    weights, int8 = capsys.readouterr().err.splitlines()
    assert (
        weights == "publish.py: WARNING: storing the weights changed the test accuracy by -0.30 points, more than 0.05"
    )
    assert int8 == "publish.py: WARNING: int8 changed the test accuracy by -0.40 points, not -0.2 to 0.5"


def test_the_table_is_that_of_the_checkout_alone(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text(f"before\n{readme.TABLE_BEGIN}\nold\n{readme.TABLE_END}\nafter\n")
    other = Path(shutil.copytree(twin, tmp_path / "other" / twin.name))
    own = Path(shutil.copytree(twin, tmp_path / "model_cards" / twin.name))
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    for cards, published, table in (
        (other, other, "old"),
        (other, own, "old"),
        (own, other, "old"),
        (own, own, own.name),
    ):
        monkeypatch.setattr(models, "MODEL_CARDS", cards.parent)
        monkeypatch.setattr(publish, "publish", lambda *_, published=published: published)
        assert publish.main(["run"]) == 0
        assert table in (tmp_path / "README.md").read_text()


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


def test_a_card_that_cannot_take_its_place_leaves_the_old_one(
    twin: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in twin.iterdir()}
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == twin and Path(source).name == twin.name:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(publish, "_write", lambda folder, *_: (folder / "config.json").write_text("{}"))
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        publish.publish(run_folder, twin, SAMPLES, False)
    assert {path.name: path.read_bytes() for path in twin.iterdir()} == before
    assert not list(twin.parent.glob(".publishing-*"))


def test_only_a_card_is_replaced(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish, "_write", lambda folder, *_: (folder / "written").touch())
    before = sorted(run_folder.rglob("*"))
    file, other, empty = tmp_path / "file", tmp_path / "other", tmp_path / "empty"
    file.touch()
    other.mkdir()
    (other / "config.json").touch()
    empty.mkdir()
    for target, reason in (
        (run_folder, "is the run itself"),
        (run_folder / "states" / "..", "is the run itself"),
        (run_folder.parent, "is not empty and holds no card"),
        (other, "is not empty and holds no card"),
        (file, "is not empty and holds no card"),
    ):
        assert publish.main([str(run_folder), "--data-dir", str(SAMPLES), "--output-dir", str(target)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{target.resolve()} {reason}: choose another --output-dir" in line
    assert sorted(run_folder.rglob("*")) == before
    assert (other / "config.json").exists()
    (other / "model.safetensors").touch()  # a card now
    for target in (empty, other, tmp_path / "new"):
        publish.publish(run_folder, target, SAMPLES, False)
        assert [path.name for path in target.iterdir()] == ["written"]


@pytest.fixture(scope="module")
def own_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a network for one's own pictures, of two classes, started from another run's weights."""
    folder = tmp_path_factory.mktemp("own")
    pictures = folder / "my insects"
    generator = np.random.default_rng(0)
    for channel, label in enumerate(("bee", "wasp")):
        (pictures / label).mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 90, (40, 50, 3), dtype=np.uint8)
            pixels[:, :, channel] += 150
            Image.fromarray(pixels).save(pictures / label / f"{i}.png")
    for run, arguments in (
        ("first", ("--dataset", "cifar10", "--data-dir", SAMPLES)),
        ("second", ("--dataset", pictures, "--pretrained", folder / "first")),
    ):
        reset_accelerate()
        more = ("--model", "tiny_net", "--epochs", 1, "--batch-size", 16, "--output-dir", folder / run)
        assert fit.main([str(argument) for argument in (*arguments, *more)]) == 0
    reset_accelerate()
    yield publish.publish(folder / "second", folder / "tiny_net.my insects", None, False)
    reset_accelerate()


def test_card_of_own_pictures_names_their_folder(own_card: Path) -> None:
    """Its path stands where the project's own commands look for the pictures, nowhere else."""
    path = str(own_card.parent)
    holding = {file.name for file in own_card.iterdir() if path.encode() in file.read_bytes()}
    assert holding == {"config.json"}
    text = (own_card / "README.md").read_text()
    parsed = ModelCard.load(own_card / "README.md")
    assert parsed.data.datasets is None
    assert parsed.data.eval_results is None
    assert "trained on the 2 classes of my insects." in text
    assert "from the weights `first`, 1 epochs" in text
    (command,) = re.findall(r"^accelerate launch train/fit\.py (.*)$", text, re.MULTILINE)
    args = fit.parse(shlex.split(command))
    assert (args.dataset, args.pretrained) == ("my insects", "first")
    assert "`my insects` is a folder of pictures that lies where the network was trained. So do the weights" in text
    assert export.stated(own_card / "model.onnx")["tag"] == "my insects"


def test_usage_of_own_pictures_runs(
    own_card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = (own_card / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    shutil.copytree(own_card, tmp_path / own_card.name)
    Image.new("RGB", (50, 40), (200, 40, 40)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.strip() in {"bee", "wasp"}


def test_verify_and_export_of_own_pictures(own_card: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    assert verify.main(["--samples", str(own_card)]) == 0
    line = f"{own_card.name}: not checked, as the project ships no images of its dataset\n"
    assert capsys.readouterr().out == line
    assert verify.main([str(own_card)]) == 0
    assert capsys.readouterr().out == f"{own_card.name}: as stated\n"

    elsewhere = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    config = (elsewhere / "config.json").read_text().replace(str(own_card.parent), "/no/such")
    (elsewhere / "config.json").write_text(config)
    assert export.main([str(elsewhere)]) == 1
    assert "unknown dataset '/no/such/my insects'" in capsys.readouterr().err
    assert verify.main([str(elsewhere)]) == 2
    assert "unknown dataset '/no/such/my insects'" in capsys.readouterr().err


def test_pictures_named_like_a_dataset_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(data.DataError, match="would pass for the dataset 'mnist'"):
        publish.dataset_name(str(tmp_path / "mnist"))
    assert publish.dataset_name("mnist") == "mnist"
    assert publish.dataset_name("owner/name") == "owner/name"
    assert publish.dataset_name(f"{tmp_path}/") == tmp_path.name


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
