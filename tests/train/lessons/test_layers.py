"""Shapes, parameters and receptive fields of layers, against PyTorch's own gradients and the papers."""

import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401  registers the networks
from train.lessons import layers
from train.paper import section4
from train.training.results import measure

FAMILIES = list(section4.CHANGES)


def fields(model: nn.Module) -> dict[str, int | None]:
    return {layer.name: layer.receptive_field for layer in layers.layers(model)}


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("improved", [False, True])
def test_layers_have_all_parameters_and_the_last_shape(family: str, improved: bool) -> None:
    model = section4.build(family, *(section4.names(family) if improved else ()), side=64).train()
    found = layers.layers(model)
    assert model.training
    assert sum(layer.parameters for layer in found) == measure.parameters(model)
    assert found[-1].shape == (10,)
    assert found[-1].receptive_field is None
    maps = [layer for layer in found if layer.receptive_field]
    assert all(layer.stride is not None and layer.shape[1] * layer.stride == 64 for layer in maps)


@pytest.mark.usefixtures("no_draws")
def test_receptive_fields_are_those_that_are_known() -> None:
    vgg = fields(section4.build("vgg16"))
    assert [vgg[f"features.{i}"] for i in (0, 2, 4, 9, 16, 23, 30)] == [3, 5, 6, 16, 44, 100, 212]
    resnet = fields(section4.build("resnet18"))
    assert [resnet[name] for name in ("conv1", "maxpool", "layer1.1.conv2", "layer4.1.conv2")] == [7, 11, 43, 435]
    deep = fields(section4.build("resnet18", "stem"))
    assert [deep[f"conv1.{i}"] for i in (0, 3, 6)] == [3, 7, 11]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("vanilla_resnet18", "layer1"), ("improved_resnet18", "layer1"), ("improved_googlenet", "inception3a")],
)
def test_a_receptive_field_is_where_gradients_reach(name: str, layer: str) -> None:
    """Max pools pass gradients to one pixel of a window alone; averages reach all of it."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    found = [row for row in layers.layers(model) if row.name.startswith(f"{layer}.") and row.receptive_field]
    for parent in list(model.modules()):
        for child, module in parent.named_children():
            if isinstance(module, nn.MaxPool2d):
                pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
                setattr(parent, child, pool)
    for weight in model.parameters():
        weight.data.abs_()  # so that no two paths cancel
    side = 128
    reached = layers.influence(model, layer, torch.rand(1, 3, side, side)) > 0
    rows = torch.nonzero(reached.any(1)).flatten()
    assert rows[-1] - rows[0] + 1 == max(row.receptive_field or 0 for row in found)


def test_influence_is_largest_in_the_middle() -> None:
    torch.manual_seed(0)
    model = section4.build("resnet18", side=64).eval()
    found = layers.influence(model, "layer2", torch.randn(8, 3, 64, 64))
    assert found.shape == (64, 64)
    assert found.max() == 1
    assert found[24:40, 24:40].mean() > 5 * found[:8].mean()
    assert not model.layer2._forward_hooks
    with pytest.raises(AttributeError, match="layer9"):
        layers.influence(model, "layer9", torch.randn(1, 3, 64, 64))
