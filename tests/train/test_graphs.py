"""Which steps are captured as CUDA graphs; what they compute is shown on a GPU, in test_gpu.py."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from train import graphs, recipes


@pytest.mark.parametrize(
    ("device", "processes", "precision", "ema_decay", "expected"),
    [
        ("cuda", 1, "bf16", 0.0, True),
        ("cuda", 1, "no", 0.0, True),
        ("cuda", 1, "fp16", 0.0, False),
        ("cuda", 2, "bf16", 0.0, False),
        ("cuda", 1, "bf16", 0.99, False),
        ("cpu", 1, "bf16", 0.0, False),
    ],
)
def test_steps_that_the_host_must_wait_in_are_not_captured(
    device: str, processes: int, precision: str, ema_decay: float, expected: bool
) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(device), num_processes=processes, mixed_precision=precision)
    recipe = replace(recipes.get("fast", "improved_resnet18", "cifar10"), ema_decay=ema_decay)
    assert graphs.possible(accelerator, recipe) is expected
