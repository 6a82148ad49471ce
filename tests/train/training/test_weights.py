"""Weights to start from, across channel counts: published ones, a run's, a file's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from train.training import models, recipes
from zoo.catalog import NETWORKS
from zoo.compact import expand


def adapted(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """What timm makes of a first convolution: the sum of its channels, or a third of the one for each."""
    return weight.sum(1, keepdim=True) if channels == 1 else weight.repeat(1, 3, 1, 1) / 3


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize(("start", "channels"), [("cifar10", 1), ("mnist", 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_published_weights_load_for_other_channels(name: str, start: str, channels: int, tmp_path: Path) -> None:
    card = models.REPOSITORY / "model_cards" / f"{name}.{start}"
    layer = f"{models.input_config(f'{name}.{start}')['first_conv']}.weight"
    tensors = {name: tensor for name, tensor in load_file(card / "model.safetensors").items() if name.startswith(layer)}
    stored = expand(tensors)[layer].float()
    dataset = "mnist" if channels == 1 else str(tmp_path)  # its tag says one channel, a folder has none
    model = models.create(name, dataset, 10, channels, str(card))
    # timm adapts them in the half precision that they are stored in.
    torch.testing.assert_close(model.state_dict()[layer], adapted(stored, channels), rtol=1e-3, atol=1e-4)
    cfg = models.pretrained_cfg(model)
    assert cfg["input_size"][0] == len(cfg["mean"]) == len(cfg["std"]) == channels


@pytest.mark.parametrize("kind", ["run", "file", "card"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_weights_of_every_kind_load_for_other_channels(kind: str, before: int, after: int, tmp_path: Path) -> None:
    names = {1: "mnist", 3: "cifar10"}
    source: Any = models.create("tiny_net", names[before], 4, before)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(source.state_dict(), folder / "model.safetensors")
    if kind == "run":
        run: dict[str, Any] = {"model": "tiny_net", "dataset": names[before], "recipe": "paper", "seed": 0}
        run |= {"settings": recipes.as_settings(recipes.PAPER_VANILLA), "class_names": list("abcd")}
        (folder / "args.json").write_text(json.dumps(run))
    elif kind == "card":
        (folder / "config.json").write_text(json.dumps({"num_classes": 4}))
    path = folder / "model.safetensors" if kind == "file" else folder
    for classes in (4, 7):  # a classifier of as many classes is kept
        model: Any = models.create("tiny_net", names[after], classes, after, str(path))
        torch.testing.assert_close(model.conv1.weight, adapted(source.conv1.weight, after))
        assert torch.equal(model.conv2.weight, source.conv2.weight)
        assert model.fc.out_features == classes
        if classes == 4:
            assert torch.equal(model.fc.weight, source.fc.weight)


def test_a_run_of_adapted_weights_loads_as_it_is(tmp_path: Path) -> None:
    """Loading it must not adapt them once more."""
    model = models.create("tiny_net", "mnist", 10, 1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    run: dict[str, Any] = {"model": "tiny_net", "dataset": "mnist", "recipe": "paper", "seed": 0, "in_chans": 1}
    run |= {"settings": recipes.as_settings(recipes.PAPER_VANILLA), "class_names": list("abcdefghij")}
    (tmp_path / "args.json").write_text(json.dumps(run))
    shutil.copy(tmp_path / "args.json", tmp_path / "metrics.json")
    loaded, _ = models.load_run(tmp_path)
    assert torch.equal(loaded.get_parameter("conv1.weight"), model.get_parameter("conv1.weight"))
