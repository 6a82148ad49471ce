"""A network whose layers were merged gives what it gave before."""

import copy
from itertools import product
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import zoo  # noqa: F401
from train import convolution, models
from train.fold import fold
from train.merge import ConvReLU, merged


def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """In evaluation mode, with norms as training leaves them: no factor of 1, no offset of 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def relative(expected: Tensor, found: Tensor) -> float:
    return ((expected - found).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("name", "relus"),
    # All but those behind sums (ResNet), linear layers (VGG) and convolutions of 7x7.
    [("vanilla_resnet18", 8), ("improved_resnet18", 11), ("vanilla_googlenet", 56), ("improved_googlenet", 59),
     ("improved_vgg16", 13), ("vanilla_vgg16", 13)],
)  # fmt: skip
def test_networks(name: str, relus: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    size = models.pretrained_cfg(model)["input_size"]
    model = fold(with_statistics(model, torch.randn(16, *size)), size)
    x = torch.randn(4, *size)
    faster = merged(model, size)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in faster.modules())
    assert sum(type(module) is ConvReLU for module in faster.modules()) == relus
    assert not faster.training
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        for network in (model, faster):
            convolution.use_faster(network)
        assert relative(exact, faster(x)) < 1e-4
        with torch.autocast("cpu", torch.bfloat16):
            coarse, found = model(x), faster(x)
    assert relative(exact, found) < 1.5 * relative(exact, coarse)


class Layers(nn.Module):
    """A convolution whose output, or which itself, is wanted twice, and others that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.shown = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.others = nn.Sequential(
            nn.Conv2d(4, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Dropout(),
            nn.Conv2d(4, 4, 1), nn.ELU(), nn.Conv2d(4, 4, 3, 2, padding=1, bias=False), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(x)) + self.twice(x)
        y = self.norm(self.shown(x))
        return self.others(y + F.relu(y)).mean((2, 3)) + self.relu(x).mean((2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_wanted_elsewhere_too_stays(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = with_statistics(Layers(), torch.randn(16, 4, 9, 9))
    faster = merged(model, (4, 9, 9))
    assert sum(type(module) is ConvReLU for module in faster.modules()) == 1
    x = torch.randn(3, 4, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert relative(model(x), faster(x)) < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tiles", [True, False])
def test_all_ways_of_computing_it(tiles: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "has_tiles", lambda dtype: tiles)
    torch.manual_seed(0)
    for kernel, stride, side in product((1, 3), (1, 2), (1, 2, 4, 9)):
        conv = nn.Conv2d(64, 128, kernel, stride, padding=kernel // 2)
        x = torch.randn(3, 64, side, side)
        expected = conv(x).relu()
        conv.__class__ = ConvReLU
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            y = conv(x)
        assert y.dtype == dtype
        assert relative(expected, y) < (1e-5 if dtype == torch.float32 else 0.03)


def test_where_onednn_cannot_it_is_computed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1)
    expected = conv(x := torch.randn(2, 4, 9, 9)).relu()
    conv.__class__ = ConvReLU
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(conv(x), expected)


class ByValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class ByType(nn.Module):
    """Takes a tracer's proxy for something else than a tensor."""

    def forward(self, x: Any) -> Tensor:
        return x.mean((2, 3)) if isinstance(x, Tensor) else x.amax((2, 3))


@pytest.mark.parametrize("kind", [ByValues, ByType])
def test_what_cannot_be_traced_stays_as_it_is(kind: type[nn.Module]) -> None:
    model = kind().eval()
    assert merged(model, (3, 8, 8)) is model
    assert isinstance(merged(nn.Conv2d(3, 8, 3).eval(), (3, 8, 8)), fx.GraphModule)
