"""The compact form of checkpoints: exact where it says so, near where it rounds, and clear where it is broken."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo  # noqa: F401
from zoo.compact import BLOCK, expand, from_blocks, repeat_cells, to_blocks


@pytest.mark.parametrize("shape", [(3, 5), (4, 64), (2, 65), (8, 3, 3, 3), (6, 130, 3, 3)])
def test_blocks_are_near_to_half_a_step(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[0] *= 1000  # a row of another size costs the others nothing
    integers, scale = to_blocks(weight)
    assert integers.shape == shape
    assert integers.dtype == torch.int8
    columns = weight[0].numel()
    assert scale.shape == (shape[0], -(-columns // BLOCK))
    back = from_blocks(integers, scale)
    step = scale.float().repeat_interleave(BLOCK, dim=1)[:, :columns].view(shape)
    # The largest of a block may lie beyond its last integer by what the factor lost in half precision.
    assert ((back - weight).abs() <= 0.5 * step * 1.13).all()


@pytest.mark.parametrize("largest", [0.1, 0.01, 1e-3, 1e-4])
def test_small_weights_keep_their_eight_bits(largest: float) -> None:
    """Weight decay leaves whole filters this small, and the norm behind them makes them large again."""
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    weight *= largest / weight.abs().max()
    back = from_blocks(*to_blocks(weight))
    assert (back - weight).std() < 0.01 * weight.std()


def test_what_was_rounded_once_stays() -> None:
    once = from_blocks(*to_blocks(torch.randn(4, 200)))
    torch.testing.assert_close(from_blocks(*to_blocks(once)), once, rtol=1e-3, atol=1e-6)


def test_zeros_and_tiny_weights_survive() -> None:
    weight = torch.zeros(2, 128)
    weight[1, 0] = 1e-12
    back = from_blocks(*to_blocks(weight))
    assert back.isfinite().all()
    assert back.abs().max() <= 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_what_does_not_fit_is_said(bad: float) -> None:
    weight = torch.zeros(2, 128)
    weight[1, 7] = bad
    with pytest.raises(ValueError, match="do not fit 8-bit blocks"):
        to_blocks(weight)


def test_cells_are_repeated_by_row_and_column() -> None:
    weight = torch.arange(8.0).view(1, 8)  # two channels of 2x2 cells
    whole = repeat_cells(weight, torch.tensor([0, 0, 1], dtype=torch.uint8)).view(2, 3, 3)
    assert whole[0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]
    assert whole[1].tolist() == [[4, 4, 5], [4, 4, 5], [6, 6, 7]]


def test_parts_nest() -> None:
    left, right = torch.randn(6, 2), torch.randn(2, 8)
    state = {"fc.weight.left": left, "fc.weight.cells": torch.tensor([0, 1, 1], dtype=torch.uint8)}
    state["fc.weight.right.int8"], state["fc.weight.right.scale"] = to_blocks(right)
    state["fc.bias"] = torch.ones(6)
    whole = expand(state)
    assert set(whole) == {"fc.weight", "fc.bias"}
    expected = repeat_cells(left @ from_blocks(*to_blocks(right)), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(whole["fc.weight"], expected)
    assert len(state) == 5  # the caller's is as it was
    assert expand(whole) == whole


def test_a_missing_half_is_named() -> None:
    with pytest.raises(KeyError, match=r"fc\.weight\.scale"):
        expand({"fc.weight.int8": torch.zeros(2, 2, dtype=torch.int8)})


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_resnet18.mnist", "vanilla_googlenet"])
def test_timm_loads_a_compact_checkpoint(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    state = {}
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            state[f"{key}.int8"], state[f"{key}.scale"] = to_blocks(tensor)
        else:
            state[key] = tensor
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    # By timm's `checkpoint_path` and by PyTorch's own means too, which know of no checkpoint filter.
    by_path = timm.create_model(name, checkpoint_path=str(file)).state_dict()
    holder = nn.ModuleDict({"model": copy.deepcopy(timm.create_model(name))})
    holder.load_state_dict({f"model.{key}": tensor for key, tensor in load_file(file).items()})
    expected = expand(state)
    for key, tensor in expected.items():
        assert torch.equal(by_path[key], tensor), key
        assert torch.equal(holder["model"].state_dict()[key], tensor), key
    changes: tuple[dict[str, Any], ...] = ({}, {"in_chans": 3}, {"num_classes": 4})
    for options in changes:
        loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options).eval()
        for key, tensor in loaded.state_dict().items():
            mine = model.state_dict()[key]
            if tensor.shape == mine.shape and not key.startswith("fc"):
                torch.testing.assert_close(tensor.float(), mine.float(), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocks", [True, False])
def test_assigned_weights_have_the_models_precision(blocks: bool, dtype: torch.dtype) -> None:
    """Published matrices are 8-bit or half, vectors float32: as they are, no forward would run."""
    published = {}
    for key, tensor in timm.create_model("vanilla_resnet18").state_dict().items():
        if blocks and tensor.numel() >= 2**16:
            published[f"{key}.int8"], published[f"{key}.scale"] = to_blocks(tensor)
        else:
            published[key] = tensor.half() if tensor.ndim > 1 else tensor
    model = timm.create_model("vanilla_resnet18", device="meta").to(dtype).eval()
    model.load_state_dict(published, assign=True)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype, torch.int64}
    assert model(torch.randn(1, 3, 32, 32, dtype=dtype)).isfinite().all()


def test_assigning_keeps_a_checkpoint_of_one_precision() -> None:
    model = timm.create_model("vanilla_resnet18", device="meta")
    model.load_state_dict(timm.create_model("vanilla_resnet18").half().state_dict(), assign=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
