"""Shared networks: the VGGs are large, and drawing their weights takes longer than most tests."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401
from zoo.catalog import NETWORKS


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers on a busy machine: threads that wait for each other cost several times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    """Each network of the catalog; a test that parametrizes `name` itself gets those it names."""
    return request.param


def lively(name: str) -> nn.Module:
    """Weights and BatchNorm statistics under which every layer matters: GoogLeNet's own draw all but vanishes.

    It is the only draw, as that of the VGGs' 120 million weights takes a second.
    """
    model: nn.Module = timm.create_model(name, device="meta").to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            norm: Any = module  # to mypy its statistics may be None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.zeros_(norm.num_batches_tracked)
    return model


@pytest.fixture(name="lively")
def _lively() -> Callable[[str], nn.Module]:
    return lively


@functools.cache
def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return lively(name)


@pytest.fixture
def model(name: str) -> Iterator[nn.Module]:
    """The network `name` with live weights, in evaluation mode; one instance for all tests, to be left unchanged."""
    model = _build(name).eval()
    yield model
    model.eval().zero_grad(set_to_none=True)


@pytest.fixture
def images(name: str) -> Callable[..., torch.Tensor]:
    """Draws a batch of the network's own input size."""

    def draw(batch: int = 2, chans: int = 3, device: str = "cpu") -> torch.Tensor:
        size = timm.get_pretrained_cfg(name).input_size[-1]
        return torch.randn(batch, chans, size, size, generator=torch.Generator().manual_seed(1)).to(device)

    return draw
