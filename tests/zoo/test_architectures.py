"""The networks are those of the paper: sizes, layers, dropout, initialisation, gradients."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from zoo.googlenet import GoogLeNet
from zoo.vgg import AdaptiveAvgPool2d, AdaptiveMaxPool2d, PooledMlp, PooledVGG

PARAMETERS = {
    "vanilla_vgg16": 134_301_514,
    "vanilla_resnet18": 11_181_642,
    "vanilla_googlenet": 5_610_154,
    "improved_vgg16": 83_978_314,
    "improved_resnet18": 11_200_874,
    "improved_googlenet": 5_629_386,
}
# With one input channel the first convolution loses two thirds: kernel area x widths x 2 channels.
FIRST_CONV_LOSS = {
    "vanilla_vgg16": 3 * 3 * 64 * 2,
    "vanilla_resnet18": 7 * 7 * 64 * 2,
    "vanilla_googlenet": 7 * 7 * 64 * 2,
    "improved_vgg16": 3 * 3 * 64 * 2,
    "improved_resnet18": 3 * 3 * 32 * 2,
    "improved_googlenet": 3 * 3 * 32 * 2,
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    assert count(timm.create_model(name, device="meta")) == PARAMETERS[name]
    assert count(timm.create_model(f"{name}.mnist", device="meta")) == PARAMETERS[name] - FIRST_CONV_LOSS[name]


def test_parameter_count_with_auxiliary_heads() -> None:
    assert count(timm.create_model("vanilla_googlenet", aux_logits=True, device="meta")) == 9_960_638


def test_logits_depend_on_the_image(model: nn.Module, images: Callable[..., torch.Tensor]) -> None:
    with torch.no_grad():
        logits = model(images(4))
    assert logits.shape == (4, 10)
    assert (logits.std(dim=0) > 1e-4).all()


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (45, 70), (224, 224)])
def test_any_input_size(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name, device="meta").eval()
    assert model(torch.empty(2, 3, *size, device="meta")).shape == (2, 10)


def test_gradient_reaches_every_parameter(model: nn.Module, images: Callable[..., torch.Tensor]) -> None:
    loss = F.cross_entropy(model.train()(images(4)), torch.tensor([0, 3, 5, 9]))
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_gradient_reaches_the_auxiliary_heads() -> None:
    model = timm.create_model("improved_googlenet", aux_logits=True).train()
    outputs = model(torch.randn(4, 3, 64, 64))
    assert [tuple(logits.shape) for logits in outputs] == [(4, 10)] * 3
    sum(F.cross_entropy(logits, torch.tensor([0, 3, 5, 9])) for logits in outputs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_auxiliary_heads_are_silent_in_evaluation() -> None:
    model = timm.create_model("vanilla_googlenet", aux_logits=True).eval()
    assert isinstance(model(torch.randn(2, 3, 32, 32)), torch.Tensor)


@pytest.mark.parametrize(("name", "rate"), [("improved_resnet18", 0.1), ("improved_googlenet", 0.2)])
def test_dropout_before_the_classifier(name: str, rate: float) -> None:
    model: Any = timm.create_model(name).train()
    torch.manual_seed(0)
    dropped = model.forward_head(torch.ones(64, model.num_features, 1, 1), pre_logits=True)
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / (1 - rate))


def test_improved_vgg_keeps_both_dropouts() -> None:
    model = timm.create_model("improved_vgg16", device="meta")
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"pre_logits.drop": 0.5, "head.drop": 0.5}
    mlp = PooledMlp(1, AdaptiveMaxPool2d(5), 5, 2048, 0.5)
    nn.init.zeros_(mlp.fc1.weight)
    nn.init.ones_(mlp.fc1.bias)
    into_fc2: list[torch.Tensor] = []
    mlp.fc2.register_forward_pre_hook(lambda _module, args: into_fc2.append(args[0]))
    mlp(torch.ones(8, 1, 2, 2))
    assert set(into_fc2[0].unique().tolist()) == {0.0, 2.0}


def test_improved_vgg_has_batchnorm_after_every_convolution() -> None:
    model: Any = timm.create_model("improved_vgg16", device="meta")
    layers = list(model.features)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    for i in convolutions:
        assert isinstance(layers[i + 1], nn.BatchNorm2d)
        assert isinstance(layers[i + 2], nn.ReLU)


@pytest.mark.parametrize("name", ["vanilla_vgg16", "improved_vgg16", "improved_resnet18"])
def test_initialisation_of_section_4(name: str) -> None:
    """Torchvision's of VGG16 is the same."""
    torch.manual_seed(0)
    for module in timm.create_model(name).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            tolerance = 5 / math.sqrt(2 * module.weight.numel())  # five deviations of the estimate
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * module.weight.numel()))
            assert not module.bias.any()


@pytest.mark.parametrize("name", ["improved_vgg16", "vanilla_vgg16", "improved_resnet18", "improved_googlenet"])
def test_a_new_classifier_is_initialised_as_the_first_one(name: str) -> None:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"aux_logits": True} if "googlenet" in name else {}
    model = timm.create_model(name, device="meta", **kwargs).to_empty(device="cpu")
    model.reset_classifier(100)
    heads = [model.get_classifier(), *(getattr(model, aux).fc2 for aux in ("aux1", "aux2") if kwargs)]
    for head in heads:
        assert head.out_features == 100
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    if not kwargs:  # GoogLeNet keeps torchvision's initialisation, in which the bias is PyTorch's
        assert not head.bias.any()


def test_improved_googlenet_changes_the_stem_alone() -> None:
    """Three 3x3 convolutions, with the 7x7 one's stride and width; all else as in the vanilla network."""
    vanilla, improved = (timm.create_model(f"{form}_googlenet", device="meta") for form in ("vanilla", "improved"))
    stem = [m for m in improved.conv1.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in stem] == [
        (32, (3, 3), (2, 2)),
        (32, (3, 3), (1, 1)),
        (64, (3, 3), (1, 1)),
    ]

    def rest(model: nn.Module) -> dict[str, torch.Size]:
        return {n: v.shape for n, v in model.state_dict().items() if not n.startswith("conv1.")}

    assert rest(vanilla) == rest(improved)
    images = torch.empty(2, 3, 64, 64, device="meta")
    assert vanilla.conv1(images).shape == improved.conv1(images).shape == (2, 64, 32, 32)


def test_initialisation_of_the_improved_googlenet_is_the_vanilla_one() -> None:
    torch.manual_seed(0)
    for module in timm.create_model("improved_googlenet").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * module.weight.numel()))


@pytest.mark.parametrize(("model_cls", "argument"), [(GoogLeNet, "stem"), (PooledVGG, "pool")])
def test_unknown_variants_are_refused(model_cls: type[nn.Module], argument: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown {argument} 'round'. Valid: '"):
        model_cls(**({"cfg": [64]} if model_cls is PooledVGG else {}), **{argument: "round"})


class Pools(nn.Module):
    """Both pools of VGG16 on each of several maps."""

    def __init__(self, average: nn.Module, maximum: nn.Module) -> None:
        super().__init__()
        self.average, self.maximum = average, maximum

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *(self.average(x) for x in maps), *(self.maximum(x) for x in maps)


def pools(average: int, maximum: int) -> tuple[nn.Module, nn.Module]:
    """Ours and PyTorch's, by the sizes that they pool to."""
    theirs = Pools(nn.AdaptiveAvgPool2d(average), nn.AdaptiveMaxPool2d(maximum))
    return Pools(AdaptiveAvgPool2d(average), AdaptiveMaxPool2d(maximum)).eval(), theirs.eval()


@pytest.mark.parametrize(
    ("height", "exported"), [(1, 8), (2, 1), (3, 5), (4, 11), (5, 2), (6, 8), (7, 1), (9, 5), (10, 11), (13, 2)]
)
def test_exported_pools_equal_pytorchs(height: int, exported: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported computes the same for maps of all widths; the graph itself is tried with one of them."""
    ours, theirs = pools(7, 5)
    maps = {width: torch.randn(2, 3, height, width) for width in (1, 2, 5, 8, 11)}
    expected = theirs(*maps.values())
    assert all(map(torch.equal, ours(*maps.values()), expected))
    program = torch.export.export(ours, (maps[exported],))
    assert "adaptive" not in str(program.graph)
    torch.testing.assert_close(program.module()(maps[exported]), theirs(maps[exported]))
    monkeypatch.setattr("zoo.vgg._exporting", lambda: True)
    torch.testing.assert_close(ours(*maps.values()), expected)


@pytest.mark.parametrize(
    ("dynamo", "sizes"), [(False, (7, 5)), (True, (4, 3)), pytest.param(True, (7, 5), marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pools_in_onnx_take_maps_of_any_size(dynamo: bool, sizes: tuple[int, int], tmp_path: Path) -> None:
    """From PyTorch's exporter, and from the one by way of TorchScript, which is what timm's script uses."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    dynamic = torch.export.Dim.DYNAMIC
    ours, theirs = pools(*sizes)
    axes = {"dynamic_shapes": [({2: dynamic, 3: dynamic},)]} if dynamo else {"dynamic_axes": {"x": {2: "h", 3: "w"}}}
    options: dict[str, Any] = {"dynamo": dynamo, "input_names": ["x"], "verbose": False, **axes}
    torch.onnx.export(ours, (torch.randn(1, 2, 2, 4),), tmp_path / "pool.onnx", **options)
    session = onnxruntime.InferenceSession(tmp_path / "pool.onnx", providers=["CPUExecutionProvider"])
    for size in ((2, 4), (1, 1), (3, 2), (4, 7), (7, 5), (11, 13)):
        x = torch.randn(1, 2, *size)
        average, maximum = map(torch.from_numpy, session.run(None, {"x": x.numpy()}))
        torch.testing.assert_close((average, maximum), theirs(x))


def test_max_pool_gives_the_gradient_of_ties_to_one_element() -> None:
    gradients: list[Any] = []
    for pool in (AdaptiveMaxPool2d(5), nn.AdaptiveMaxPool2d(5)):
        x = torch.ones(1, 1, 7, 7, requires_grad=True)
        pool(x).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
