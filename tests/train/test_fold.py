import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401
from train.fold import DistinctCells, fold, windows


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize(("size", "maximum"), [(5, True), (7, False)])
def test_distinct_cells_are_those_of_the_adaptive_pool(length: int, size: int, maximum: bool) -> None:
    x = torch.randn(2, 3, length, length)
    pool = DistinctCells(length, size, maximum)
    expected = (nn.AdaptiveMaxPool2d(size) if maximum else nn.AdaptiveAvgPool2d(size))(x)
    rows = [pool.windows.index(window) for window in windows(length, size)]
    torch.testing.assert_close(pool(x)[:, :, rows][..., rows], expected)


@pytest.mark.parametrize(
    ("name", "size", "inputs"),
    [("vanilla_vgg16", 32, 512), ("improved_vgg16", 64, 4608), ("improved_vgg16", 96, 12800)],
)
def test_folded_vgg_gives_the_same_logits(name: str, size: int, inputs: int) -> None:
    model = timm.create_model(name).eval()
    # Narrow, not to spend a test's time on 400 MB of weights; the fold knows nothing of the width.
    model.pre_logits.fc1 = nn.Linear(model.pre_logits.fc1.in_features, 16)
    model.pre_logits.fc2 = nn.Linear(16, 16)
    model.head.fc = nn.Linear(16, 10)
    folded = fold(model, (3, size, size))
    assert folded.pre_logits.fc1.in_features == inputs
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-4)


def test_other_models_are_left_as_they_are() -> None:
    model = timm.create_model("vanilla_resnet18")
    assert fold(model, (3, 32, 32)) is model
