"""Which steps are captured as CUDA graphs; what they compute is shown on a GPU, in test_gpu.py."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from train.speed import graphs


@pytest.mark.parametrize(
    ("device", "processes", "precision", "expected"),
    [
        ("cuda", 1, "bf16", True),
        ("cuda", 1, "no", True),
        ("cuda", 1, "fp16", False),
        ("cuda", 2, "bf16", False),
        ("cpu", 1, "bf16", False),
    ],
)
def test_steps_that_the_host_must_wait_in_are_not_captured(
    device: str, processes: int, precision: str, expected: bool
) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(device), num_processes=processes, mixed_precision=precision)
    assert graphs.possible(accelerator) is expected
