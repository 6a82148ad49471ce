"""timm's other models through the same scripts: trained, published, exported and served."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny_networks
import torch
from conftest import reset_accelerate, torch_logits
from PIL import Image

from serve.engine.models import load as load_served
from serve.settings import Settings
from train import fit
from train.cards import publishing
from train.data import loading
from train.onnx_export import metadata, runtime
from train.paper import paper
from train.training import models

Run = Callable[..., tuple[int, str, str]]
# One of timm's own small networks for tests, with the layers of a large one; the others are tested with -m slow.
SMALL = ["test_efficientnet"]
COMMON = [
    "test_vit",
    "test_resnet",
    "test_convnext",
    "resnet18",
    "resnet50",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
    "convnext_atto",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "insects"
    generator = np.random.default_rng(0)
    for channel, label in enumerate(("bee", "wasp")):
        (folder / label).mkdir(parents=True)
        for i in range(32):
            pixels = generator.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            pixels[:, :, channel] += 150
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in COMMON)])
def test_from_images_to_the_server(name: str, run: Run, pictures: Path, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--batch-size", 16, "--output-dir", tmp_path / "run")
    status, _, errors = run("--model", name, "--dataset", pictures, *options)
    assert (status, errors) == (0, "")
    reset_accelerate()
    card = publishing.publish(tmp_path / "run", tmp_path / "card", None, False, paper.accuracy)
    model = timm.create_model(f"local-dir:{card}", pretrained=True).eval()
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    side = models.pretrained_cfg(model)["input_size"][-1]
    images = loading.load(str(pictures), None, side).test.images
    expected = torch_logits(model, images)
    np.testing.assert_allclose(runtime.predict(card / "model.onnx", images), expected, rtol=1e-3, atol=2e-3)

    settings = Settings(models=tmp_path, device="cpu", precision="auto", max_batch=4)
    served = load_served(card, settings)
    assert served.info.labels == ["bee", "wasp"]
    assert metadata.FILES[served.info.precision] in metadata.files(card)
    logits, probabilities = served.run(images.permute(0, 2, 3, 1).numpy())
    assert logits.shape == (len(images), 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    if served.info.precision == "fp32":
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)


def test_a_model_that_cannot_be_exported_is_named_before_training(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "export_problem", tiny_networks.export_problem)
    for name, warned in (("tiny_branching", True), ("tiny_colour", False)):
        options = ("--model", name, "--dataset", pictures, "--epochs", 1, "--output-dir", tmp_path / name)
        status, output, errors = run(*options)
        assert (status, errors) == (0, "")
        before, _, _ = output.partition("Training ")
        assert (f"Warning: {name} cannot be exported to ONNX" in before) == warned
        assert "cannot be exported" not in run(*options, "--resume")[1]
    assert "cannot be exported" not in run(*options[:-1], tmp_path / "heart", "--overfit", 4)[1]
