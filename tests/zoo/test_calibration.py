"""`zoo.probabilities`: where the numbers come from, and where there are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import zoo
from zoo import pretrained
from zoo.calibration import Calibration, calibrated, of_weights

NUMBERS = Calibration(0.7, 1.5)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A folder as timm and this project publish it, of a small network."""
    torch.manual_seed(0)
    model = timm.create_model("vanilla_resnet18", in_chans=1)
    folder = tmp_path / "card"
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    change(folder, **NUMBERS._asdict())
    return folder


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_probabilities_of_a_card(card: Path) -> None:
    model = timm.create_model(f"local-dir:{card}", pretrained=True).eval()
    assert of_weights(model) == NUMBERS
    x = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        found = zoo.probabilities(model, x)
        torch.testing.assert_close(found, calibrated(model(x), 0.7, 1.5))
        assert not torch.allclose(found, model(x).softmax(1), atol=1e-3)
        torch.testing.assert_close(zoo.probabilities(model, x, Calibration()), model(x).softmax(1))


def test_the_hub_is_asked_for_its_config(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model(f"local-dir:{card}", pretrained=True)
    model.pretrained_cfg |= {"source": "hf-hub", "hf_hub_id": "owner/model", "file": None}
    asked: list[tuple[str, ...]] = []

    def download(*names: str) -> Path:
        asked.append(names)
        return card / "config.json"

    monkeypatch.setattr(pretrained, "download_from_hf", download)
    assert of_weights(model) == NUMBERS
    assert asked == [("owner/model", "config.json")]


def test_a_published_model_has_the_numbers_of_its_card(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = {"file": str(card / "model.safetensors"), "input_size": (1, 32, 32)}
    for name in ("vanilla_resnet18", "vanilla_resnet18.mnist"):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1)
        assert of_weights(model) == NUMBERS
        random = timm.create_model(name, pretrained=False, pretrained_cfg_overlay=overlay, in_chans=1)
        assert of_weights(random) == Calibration()
    other = timm.create_model(
        "vanilla_resnet18", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=3
    )
    assert of_weights(other) == Calibration()


def test_weights_without_numbers_are_not_calibrated(card: Path) -> None:
    change(card, temperature=1.0, curvature=0.0)
    model = timm.create_model(f"local-dir:{card}", pretrained=True).eval()
    (card / "config.json").write_text("{}")
    assert of_weights(model) == Calibration()
    (card / "config.json").unlink()
    assert of_weights(model) == Calibration()
    assert of_weights(torch.nn.Linear(2, 2)) == Calibration()
    x = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(zoo.probabilities(model, x), model(x).softmax(1))


@pytest.mark.parametrize(
    "damage", [{"temperature": 0.0}, {"temperature": "warm"}, {"curvature": -1.0}, {"temperature": float("nan")}]
)
def test_damaged_numbers_are_named(damage: dict[str, Any], card: Path) -> None:
    model = timm.create_model(f"local-dir:{card}", pretrained=True)
    change(card, **damage)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        of_weights(model)
