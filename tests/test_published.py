"""What is committed in model_cards/ is what its cards say it is."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from serve.models import load
from serve.settings import Settings
from train import data, evaluate, export, models, verify

CARDS = models.cards()
each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


@pytest.fixture(scope="session", autouse=True)
def onnx_files() -> None:
    for card in CARDS:
        if not all((card / file).is_file() for file in export.FILES.values()):
            for _ in export.export(card):
                pass


def test_promised_models_are_published() -> None:
    accuracy = {card.name: json.loads((card / "metrics.json").read_text())["test_accuracy"] for card in CARDS}
    assert accuracy["improved_googlenet.mnist"] >= 99.4
    assert accuracy["improved_googlenet.cifar10"] >= 88
    assert accuracy["improved_resnet18.cifar10"] >= 90
    assert accuracy["vanilla_resnet18.cifar10"] >= 80
    assert accuracy["vanilla_resnet18.mnist"] >= 99.5
    assert accuracy["improved_resnet18.mnist"] >= 99.5
    assert accuracy["vanilla_googlenet.mnist"] >= 99.5
    published = {name for name in timm.list_pretrained() if name in accuracy}
    assert published == set(accuracy)


def test_weights_fit_their_budget() -> None:
    sizes = [(card / "model.safetensors").stat().st_size for card in CARDS]
    assert sum(sizes) < 160e6
    assert max(sizes) < 40e6


@each_card
def test_every_figure_of_the_card_is_true(card: Path) -> None:
    assert list(verify.differences(card, None, samples=True)) == []


@each_card
def test_a_lie_is_noticed(card: Path) -> None:
    stated = json.loads((card / "metrics.json").read_text())["samples"]
    assert list(verify.compare(stated, stated)) == []
    for lie in ({"test_accuracy": stated["test_accuracy"] - 0.3}, {"parameters": 1}, {"safetensors_sha256": "0"}):
        assert list(verify.compare(stated | lie, stated))
    better = copy.deepcopy(stated)
    better["onnx_test_accuracy"]["int8"] -= 0.5
    assert list(verify.compare(better, stated))


@each_card
def test_torch_local_dir_and_onnx_agree_on_the_shipped_test_images(card: Path) -> None:
    folder, config = models.load_card(card)
    by_name = timm.create_model(card.name, pretrained=True).eval()
    test = data.load(config["dataset"], export.SAMPLES).test
    assert len(test) == 1000
    logits = evaluate.torch_outputs(folder, test)
    np.testing.assert_array_equal(evaluate.torch_outputs(by_name, test), logits)
    onnx = export.predict(card / "model.onnx", test.images)
    assert np.abs(onnx - logits).max() < 1e-3
    np.testing.assert_array_equal(onnx.argmax(1), logits.argmax(1))


@each_card
@pytest.mark.parametrize("precision", export.FILES)
def test_the_server_runs_what_was_measured(card: Path, precision: str) -> None:
    """On every processor: one without 8-bit dot products computes int8 in another way, unless told not to."""
    test = data.load(json.loads((card / "config.json").read_text())["dataset"], export.SAMPLES).test
    images = test.images.permute(0, 2, 3, 1).contiguous().numpy()
    model = load(card, Settings(precision=precision, device="cpu"))
    logits = np.concatenate([model.run(part)[0] for part in np.split(images, 10)])
    accuracy = 100 * (logits.argmax(1) == test.labels.numpy()).mean()
    stated = json.loads((card / "metrics.json").read_text())["samples"]["onnx_test_accuracy"][precision]
    assert accuracy == pytest.approx(stated, abs=0.101)  # one image of 1,000


@each_card
def test_card_is_parsed_back(card: Path) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    parsed = ModelCard.load(card / "README.md")
    (result,) = parsed.data.eval_results
    assert result.metric_value == pytest.approx(metrics["test_accuracy"] / 100)
    assert (result.dataset_type, result.dataset_split) == (data.HUB_IDS[metrics["dataset"]], "test")
    assert parsed.data.library_name == "timm"
    assert f"{metrics['epochs']} epochs" in parsed.text
    assert metrics["device"] in parsed.text


@each_card
def test_card_usage_runs(card: Path, tmp_path: Path) -> None:
    text = (card / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    config = json.loads((card / "config.json").read_text())
    split = data.load(config["dataset"], export.SAMPLES).test
    picture = "digit.png" if split.images.shape[1] == 1 else "picture.png"
    Image.fromarray(split.images[0].permute(1, 2, 0).squeeze().numpy()).save(tmp_path / picture)
    with torch.inference_mode():
        model, _ = models.load_card(card)
        expected = config["label_names"][int(evaluate.torch_outputs(model, split.take(slice(1))).argmax())]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == expected


def test_onnx_files_are_not_tracked() -> None:
    repository = models.REPOSITORY
    if not (repository / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=repository, check=True, capture_output=True, text=True).stdout
    assert [name for name in tracked.splitlines() if name.endswith(".onnx")] == []
