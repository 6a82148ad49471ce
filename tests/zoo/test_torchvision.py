"""The vanilla networks are torchvision's: checkpoints, logits, training mode, initialisation."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

AUX_OPTIONS = {"init_weights": True, "aux_logits": True}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("vgg16", {}),
    ("resnet18", {}),
    ("googlenet", {"init_weights": True, "aux_logits": False}),
    ("googlenet", AUX_OPTIONS),
]


def torchvision_model(network: str, **options: Any) -> Any:
    """Torchvision's network with 10 classes and random weights and statistics under which every layer matters."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = torchvision.models.get_model(network, weights=None, num_classes=10, **options)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            norm: Any = module  # to mypy its statistics may be None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.zeros_(norm.num_batches_tracked)
    return model


def load(name: str, path: Path, **kwargs: Any) -> Any:
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


@pytest.mark.parametrize(("network", "options"), NETWORKS)
def test_logits_equal_torchvisions(network: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs = torchvision_model(network, **options).eval()
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    ours = load(f"vanilla_{network}", path).eval()
    for size in ((32, 32), (64, 64), (47, 90)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = theirs(images)
            torch.testing.assert_close(ours(images), expected, rtol=1e-6, atol=1e-6)
        assert expected.std() > 0.1

    # In training: the same dropout masks fall, so rates and places are torchvision's; with heads, theirs too.
    if options.get("aux_logits"):
        ours = load(f"vanilla_{network}", path, aux_logits=True)
    outputs = []
    for model in (theirs.train(), ours.train()):
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(model(images))
    torch.testing.assert_close(tuple(outputs[1]), tuple(outputs[0]), rtol=1e-6, atol=1e-6)
    # What the norms keep of it: their momentum is torchvision's too.
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=1e-5, atol=1e-6)


def test_checkpoint_saved_by_torch(tmp_path: Path) -> None:
    theirs = torchvision_model("resnet18").eval()
    torch.save(theirs.state_dict(), tmp_path / "checkpoint.pth")
    ours = load("vanilla_resnet18", tmp_path / "checkpoint.pth").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_checkpoint_without_heads_leaves_them_as_drawn(tmp_path: Path) -> None:
    theirs = torchvision_model("googlenet", init_weights=True, aux_logits=False)
    torch.save(theirs.state_dict(), tmp_path / "checkpoint.pth")
    ours = load("vanilla_googlenet", tmp_path / "checkpoint.pth", aux_logits=True)
    assert torch.equal(ours.fc.weight, theirs.fc.weight)
    assert ours.aux1.fc2.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_heads_for_another_number_of_classes(tmp_path: Path) -> None:
    theirs = torchvision_model("googlenet", **AUX_OPTIONS)
    torch.save(theirs.state_dict(), tmp_path / "checkpoint.pth")
    ours = load("vanilla_googlenet", tmp_path / "checkpoint.pth", aux_logits=True, num_classes=7)
    assert torch.equal(ours.aux2.fc1.weight, theirs.aux2.fc1.weight)
    assert ours.aux2.fc2.weight.shape == ours.fc.weight.shape == (7, 1024)


def test_misfitting_checkpoint_is_refused(tmp_path: Path) -> None:
    weights = torchvision_model("googlenet", init_weights=True, aux_logits=False).state_dict()
    del weights["inception4c.branch2.1.conv.weight"]
    torch.save(weights, tmp_path / "checkpoint.pth")
    with pytest.raises(RuntimeError, match=r"inception4c\.branch2\.1\.conv\.weight"):
        load("vanilla_googlenet", tmp_path / "checkpoint.pth")


@pytest.mark.parametrize(("network", "options"), NETWORKS[1:])
def test_one_seed_draws_torchvisions_weights(network: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(network, weights=None, num_classes=10, **options).state_dict()
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"aux_logits": True} if options.get("aux_logits") else {}
    ours = timm.create_model(f"vanilla_{network}", **kwargs).state_dict()
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []
