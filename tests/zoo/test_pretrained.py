"""Where weights come from, what happens where there are none, and how they fit other inputs and classes."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import zoo.pretrained

# `import zoo` looks for published weights once, so each question about them is put to a fresh interpreter.
QUESTIONS = """
import json, os, sys
import timm, torch
before = set(sys.modules)
import zoo
imported = {name.partition(".")[0] for name in set(sys.modules) - before}

def error(name):
    try:
        timm.create_model(name, pretrained=True)
    except RuntimeError as e:
        return str(e)

cards = os.environ["ZOO_MODEL_CARDS"]
mnist = timm.create_model("improved_resnet18.mnist", pretrained=True).eval()
local = timm.create_model(f"local-dir:{cards}/improved_resnet18.mnist", pretrained=True).eval()
default = timm.create_model("vanilla_googlenet", pretrained=True).eval()
features = timm.create_model("vanilla_googlenet", pretrained=True, features_only=True)
gray = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
rgb = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
with torch.no_grad():
    answers = {
        "imported": sorted(imported - {"torch", "timm"} - set(sys.stdlib_module_names)),
        "list_pretrained": timm.list_pretrained(["improved_*", "vanilla_*"]),
        "default_tag": timm.create_model("improved_resnet18").default_cfg["tag"],
        "dtypes": sorted({str(p.dtype) for m in (mnist, local, default, features) for p in m.parameters()}),
        "mnist": mnist(gray).tolist(),
        "local": local(gray).tolist(),
        "default": default(rgb).tolist(),
        "error_default": error("improved_resnet18"),
        "error_tag": error("vanilla_vgg16.mnist"),
    }
print(json.dumps(answers), flush=True)
os._exit(0)  # to take all libraries down takes a second
"""


def halve(model: nn.Module) -> nn.Module:
    """Round the weights to half precision, and keep them in single: what loading a half checkpoint must give."""
    model.load_state_dict({n: v.half().to(v.dtype) for n, v in model.state_dict().items()})
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Two networks, and what a fresh interpreter answers that finds their weights published, and nothing else."""
    cards = tmp_path_factory.mktemp("cards")
    torch.manual_seed(0)
    models = {n: halve(timm.create_model(n)) for n in ("improved_resnet18.mnist", "vanilla_googlenet.cifar10")}
    for name, model in models.items():
        half = timm.create_model(name).half()
        half.load_state_dict(model.state_dict())
        save_for_hf(half, str(cards / name), safe_serialization=True)
    environment = {**os.environ, "ZOO_MODEL_CARDS": str(cards), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUESTIONS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return models, json.loads(done.stdout)


def test_import_is_quiet_and_brings_torch_and_timm_only(
    published: tuple[dict[str, nn.Module], dict[str, Any]],
) -> None:
    """That it printed nothing shows in the answers, which are all that was printed; a warning would be an error."""
    _, answers = published
    assert answers["imported"] == ["zoo"]


def test_published_weights(published: tuple[dict[str, nn.Module], dict[str, Any]]) -> None:
    models, answers = published
    assert answers["list_pretrained"] == sorted(models)
    assert answers["default_tag"] == "cifar10"
    assert answers["dtypes"] == ["torch.float32"]
    with torch.no_grad():
        gray = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
        expected = models["improved_resnet18.mnist"](gray)
        torch.testing.assert_close(torch.tensor(answers["mnist"]), expected)
        torch.testing.assert_close(torch.tensor(answers["local"]), expected)
        rgb = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
        torch.testing.assert_close(torch.tensor(answers["default"]), models["vanilla_googlenet.cifar10"](rgb))
    for key, name, dataset in (
        ("error_default", "improved_resnet18", "cifar10"),
        ("error_tag", "vanilla_vgg16", "mnist"),
    ):
        assert f"No weights are published for {name}.{dataset}" in answers[key]
        assert "Published: improved_resnet18.mnist, vanilla_googlenet.cifar10." in answers[key]
        command = f"accelerate launch train/fit.py --model {name} --dataset {dataset} --recipe fast"
        assert answers[key].endswith(command)


def test_without_a_folder_of_cards_the_error_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package was installed without a checkout."""
    monkeypatch.setattr(zoo.pretrained, "MODEL_CARDS", tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match=r"there is no folder .*nowhere: .*ZOO_MODEL_CARDS"):
        timm.create_model("vanilla_resnet18", pretrained=True, pretrained_cfg_overlay={"file": None})


@pytest.mark.parametrize("named", ["cards", "~/cards"])
def test_cards_stay_where_they_were_named(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "cards" / "improved_vgg16.mnist" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZOO_MODEL_CARDS", named)
    monkeypatch.chdir(tmp_path)
    module = runpy.run_path(zoo.pretrained.__file__)  # again: the imported module has looked already
    monkeypatch.chdir("/")
    assert Path(module["weights_file"]("improved_vgg16", "mnist")).samefile(weights)


def create_from(path: Path, name: str, **kwargs: Any) -> nn.Module:
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


@pytest.fixture
def checkpoint(model: nn.Module, tmp_path: Path) -> Path:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_own_checkpoint_loads_unchanged(name: str, model: nn.Module, checkpoint: Path) -> None:
    before = torch.get_rng_state()
    loaded = create_from(checkpoint, name).state_dict()
    if name.endswith("vgg16"):  # what the weights replace is not drawn, which would take as long
        assert torch.equal(torch.get_rng_state(), before)
    for parameter, value in model.state_dict().items():
        assert torch.equal(loaded[parameter], value), parameter


@pytest.mark.parametrize("name", ["improved_vgg16"])
@pytest.mark.parametrize("options", [{"num_classes": 5}, {"pretrained_strict": False}])
def test_a_layer_without_weights_is_drawn(name: str, options: dict[str, Any], model: nn.Module) -> None:
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    torch.manual_seed(0)
    drawn: Any = timm.create_model(name, num_classes=options.get("num_classes", 10))
    torch.manual_seed(0)
    loaded: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": weights}, **options)
    assert torch.equal(loaded.head.fc.weight, drawn.head.fc.weight)


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_resnet18", "vanilla_googlenet", "improved_googlenet"])
def test_three_channels_to_one(name: str, model: nn.Module, checkpoint: Path) -> None:
    gray = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        adapted = create_from(checkpoint, name, in_chans=1)(gray)
        torch.testing.assert_close(adapted, model(gray.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["improved_vgg16", "vanilla_resnet18", "improved_resnet18", "vanilla_googlenet"])
def test_one_channel_to_three(name: str, lively: Callable[[str], nn.Module]) -> None:
    torch.manual_seed(0)
    source = lively(f"{name}.mnist").eval()
    gray = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        overlay = {"state_dict": source.state_dict()}
        adapted = timm.create_model(f"{name}.mnist", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=3).eval()
        expected = source(gray)
        torch.testing.assert_close(adapted(gray.repeat(1, 3, 1, 1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_googlenet"])
def test_other_classes_keep_the_body(name: str, model: nn.Module, checkpoint: Path) -> None:
    adapted = create_from(checkpoint, name, num_classes=5)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(adapted.forward_features(x), model.forward_features(x))
        assert adapted(x).shape == (2, 5)
        assert create_from(checkpoint, name, num_classes=0)(x).shape == (2, model.head_hidden_size)


def test_unknown_tag_is_refused() -> None:
    with pytest.raises(RuntimeError, match="cifar100"):
        timm.create_model("improved_googlenet.cifar100")
