import copy
import functools
from typing import Any

import pytest
import timm
import torch
from conftest import narrow_vgg16
from torch import nn

import zoo  # noqa: F401
from train.speed import fold as folding
from train.speed.fold import DistinctCells, factor, fold, groups, unfold


def narrow_vgg(name: str) -> Any:
    """A VGG16 of narrow linear layers whose logits are not small."""
    return copy.deepcopy(_narrow_vgg(name))


@functools.cache
def _narrow_vgg(name: str) -> Any:
    torch.manual_seed(0)
    model = narrow_vgg16(name)
    for layer in (model.pre_logits.fc1, model.pre_logits.fc2, model.head.fc):
        layer.reset_parameters()
    return model


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize(("size", "maximum"), [(5, True), (7, False)])
def test_distinct_cells_are_those_of_the_adaptive_pool(length: int, size: int, maximum: bool) -> None:
    x = torch.randn(2, 3, length, length)
    pool = DistinctCells(length, size, maximum)
    expected = (nn.AdaptiveMaxPool2d(size) if maximum else nn.AdaptiveAvgPool2d(size))(x)
    rows = groups(length, size)
    torch.testing.assert_close(pool(x)[:, :, rows][..., rows], expected)


@pytest.mark.parametrize(
    ("name", "size", "inputs"),
    [("vanilla_vgg16", 32, 512), ("improved_vgg16", 64, 4608), ("improved_vgg16", 96, 12800)],
)
def test_folded_vgg_gives_the_same_logits(name: str, size: int, inputs: int) -> None:
    model = narrow_vgg(name).eval()
    folded = fold(model, (3, size, size))
    assert folded.pre_logits.fc1.in_features == inputs
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-4)


def test_other_models_are_left_as_they_are() -> None:
    model = timm.create_model("vanilla_resnet18")
    assert fold(model, (3, 32, 32)) is model


@pytest.mark.parametrize(
    ("name", "native", "n", "size"),
    [("vanilla_vgg16", 32, 1, 32), ("improved_vgg16", 64, 3, 64), ("improved_vgg16", 64, 3, 32)],
)
def test_training_the_folded_network_is_training_the_whole_one(name: str, native: int, n: int, size: int) -> None:
    torch.manual_seed(0)
    whole = narrow_vgg(name)
    # Two convolutions instead of thirteen, which take most of the time and are the same in both networks.
    first, second = nn.Conv2d(3, 64, 3, stride=4, padding=1), nn.Conv2d(64, 512, 3, stride=4, padding=1)
    whole.features = nn.Sequential(first, nn.ReLU(), second, nn.BatchNorm2d(512), nn.ReLU(), nn.MaxPool2d(2))
    whole = whole.double().eval()  # eval: no dropout, and BatchNorm as it stands
    folded = fold(whole, (3, native, native), to_train=True).double()
    assert folded.pre_logits.fc1.in_features == 512 * n * n
    x, labels = torch.randn(2, 3, size, size, dtype=torch.float64), torch.tensor([1, 2])

    def train(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
        for _ in range(2):
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    with torch.no_grad():
        before = whole(x)
        torch.testing.assert_close(folded(x), before, atol=1e-7, rtol=1e-6)
    train(whole)
    train(folded)
    with torch.no_grad():
        after = whole(x)
        assert (after - before).abs().max() > 1e-3
        torch.testing.assert_close(folded(x), after, atol=1e-7, rtol=1e-5)
        unfolded = unfold(folded).double()
        torch.testing.assert_close(unfolded(x), after, atol=1e-6, rtol=1e-4)
    assert {k: v.shape for k, v in unfolded.state_dict().items()} == {k: v.shape for k, v in whole.state_dict().items()}


@pytest.mark.parametrize("rank", [3, 128, 200, 255])
def test_layers_of_low_rank_become_two(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the first attempt finds the range, or a later one."""
    model = narrow_vgg("vanilla_vgg16").eval()
    torch.manual_seed(rank)
    low, whole = nn.Linear(1024, 1024), nn.Linear(1024, 1024)
    low.weight.data = torch.randn(1024, rank) @ torch.randn(rank, 1024) / 32
    model.pre_logits.fc1, model.pre_logits.fc2 = low, whole
    tried: list[int] = []
    real = torch.linalg.svd

    def svd(matrix: torch.Tensor, **how: bool) -> Any:
        tried.append(len(matrix))
        return real(matrix, **how)

    monkeypatch.setattr(torch.linalg, "svd", svd)
    factored: Any = factor(model)
    assert tried == [*((folding.FIRST_COLUMNS,) if rank < 128 else (128, 257)), 128, 257]
    assert [tuple(layer.weight.shape) for layer in factored.pre_logits.fc1] == [(rank, 1024), (1024, rank)]
    assert factored.pre_logits.fc2.weight.shape == whole.weight.shape
    x = torch.randn(5, 1024)
    torch.testing.assert_close(factored.pre_logits.fc1(x), low(x), atol=1e-3, rtol=1e-3)


def test_a_folded_layer_starts_with_the_variance_of_the_whole_one() -> None:
    model = narrow_vgg16("improved_vgg16", 256)
    folded = fold(model, (3, 64, 64), to_train=True)
    per_cell = folded.pre_logits.fc1.weight.view(256, 512, 3, 3).std((0, 1))
    torch.testing.assert_close(per_cell, torch.full((3, 3), 0.01), atol=1e-4, rtol=0)
