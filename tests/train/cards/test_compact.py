"""The published form of large networks: small, loaded by timm as it is, and true to the network at its input size."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import narrow_vgg16
from safetensors.torch import save_file
from torch import nn

import zoo  # noqa: F401
from train.cards.compact import RANK, compact, principal
from train.data import loading
from train.data.preprocess import Preprocess
from train.onnx_export import build
from train.speed.fold import factor, fold
from train.training.models import pretrained_cfg


def settled(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """A network whose outputs vary with its input as a trained one's do."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    model.train()
    with torch.no_grad():
        model(Preprocess(pretrained_cfg(model))(images))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "dataset", "cells", "times"),
    [
        ("vanilla_vgg16.mnist", "mnist", [0] * 7, 30),
        pytest.param("improved_vgg16.cifar10", "cifar10", [0, 0, 1, 2, 2], 20, marks=pytest.mark.slow),
    ],
)
def test_vgg16_comes_back_from_a_small_share(
    name: str, dataset: str, cells: list[int], times: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    # No more than there are directions kept: what is lost, is lost to 8 bits, whatever this network makes of images.
    images = loading.load(dataset, build.SAMPLES).train.images[:RANK]
    model = settled(narrow_vgg16(name, 4096), images)  # as wide as ever
    state = compact(model, images)
    assert state["pre_logits.fc1.weight.cells"].tolist() == cells
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert size * times < 4 * parameters
    save_file(state, tmp_path / "model.safetensors")
    loaded = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")}
    ).eval()
    assert sum(parameter.numel() for parameter in loaded.parameters()) == parameters
    x = Preprocess(pretrained_cfg(model))(images)
    with torch.inference_mode():
        before, after = model(x), loaded(x)
    assert (after - before).std() < 0.02 * before.std()
    assert (after.argmax(1) == before.argmax(1)).float().mean() > 0.9  # close calls: it has learnt nothing

    # And the exported graph keeps the factors.
    folded = fold(loaded, pretrained_cfg(loaded)["input_size"])
    factored = factor(folded)
    with torch.inference_mode():
        torch.testing.assert_close(factored(x[:8]), after[:8], atol=1e-3 * float(after.std()), rtol=1e-3)
    assert sum(parameter.numel() for parameter in factored.parameters()) < 20_000_000


def test_principal_directions_are_kept_and_the_mean_with_them() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    inputs = torch.randn(500, 3) @ torch.randn(3, 30) + torch.randn(30)  # vary along three directions
    left, right, bias = principal(layer, inputs, 3)
    assert left.shape == (20, 3)
    assert right.shape == (3, 30)
    torch.testing.assert_close(inputs @ (left @ right).T + bias, layer(inputs).detach(), atol=1e-4, rtol=1e-4)


def test_layers_of_full_rank_are_left_whole() -> None:
    torch.manual_seed(0)
    folded = fold(narrow_vgg16("vanilla_vgg16", 40).eval(), (3, 32, 32))
    assert isinstance(factor(folded).pre_logits.fc2, nn.Linear)
    assert factor(nn.ReLU()).__class__ is nn.ReLU


def test_small_networks_keep_half_precision_and_large_ones_eight_bits() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    small = compact(timm.create_model("improved_googlenet").eval(), images)
    assert {tensor.dtype for name, tensor in small.items() if tensor.ndim > 1} == {torch.half}
    model = timm.create_model("improved_resnet18").eval()
    large = compact(model, images)
    size = sum(tensor.numel() * tensor.element_size() for tensor in large.values())
    assert size < 12e6
    assert np.isclose(large["layer4.0.conv1.weight.int8"].float().std().item(), 40, atol=12)
    assert large["bn1.weight"].dtype == torch.float32
    assert large["fc.weight"].dtype == torch.half


def test_other_networks_keep_half_precision_whatever_their_size() -> None:
    """Timm's own loader reads no blocks of 8 bits."""
    model = timm.create_model("resnet18", num_classes=2).eval()
    state = compact(model, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert state.keys() == model.state_dict().keys()
    assert {tensor.dtype for tensor in state.values() if tensor.ndim > 1} == {torch.half}
