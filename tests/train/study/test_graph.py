"""The graph of a study file: torch's maps, the filters that make them, and what they see of the image."""

import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import narrow_vgg16, without_repeated_blocks
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.onnx_export import runtime
from train.study import graph
from train.study.fields import Field, receptive_fields
from train.training import models

# Each family, each dataset, and each way to enlarge an image or leave it. The other networks are tested with -m slow.
QUICK = ("improved_resnet18.mnist", "vanilla_googlenet.cifar10", "vanilla_vgg16.mnist")
SLOW = ("vanilla_resnet18.cifar10", "improved_googlenet.mnist", "improved_vgg16.cifar10")
PIXELS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, graph.Study, tuple[int, int, int]]:
    torch.manual_seed(0)
    whole = narrow_vgg16(request.param) if "vgg16" in request.param else timm.create_model(request.param)
    model = without_repeated_blocks(whole).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # at their initial values these would do nothing
            module.running_var = torch.empty(module.num_features).uniform_(0.5, 1.5)
            module.running_mean = torch.empty(module.num_features).normal_(std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    size = PIXELS[request.param.partition(".")[2]]
    return model, graph.build(model, size), size


def images(size: tuple[int, int, int], count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def expected(model: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """What torch says of uint8 [n, H, W, C]: the maps, and the logits."""
    caught: list[Tensor] = []
    first = next(module for module in model.modules() if isinstance(module, nn.ReLU))
    hook = first.register_forward_hook(lambda _module, _input, output: caught.append(output.clone()))
    x = Preprocess(models.pretrained_cfg(model))(pixels.permute(0, 3, 1, 2))
    _, middle, last = graph.stage_indices(model)
    maps = model.forward_intermediates(x, indices=[middle, last], intermediates_only=True)
    hook.remove()
    return {"first": caught[0], "middle": maps[0], "last": maps[1], "logits": model(x)}


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return bool(found.shape == wanted.shape and np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max())


def test_the_maps_are_torchs_to_float_precision(network: tuple[nn.Module, graph.Study, tuple[int, int, int]]) -> None:
    model, study, size = network
    whole = onnx.ModelProto()
    whole.CopyFrom(study.proto)
    stored = graph.halved(whole)
    assert stored.ByteSize() < 0.55 * study.proto.ByteSize()
    for proto, tolerance in ((study.proto, 1e-4), (stored, 2e-2)):
        session = runtime.session(proto.SerializeToString())
        names = [output.name for output in session.get_outputs()]
        for count in (1, 3):
            pixels = images(size)[:count]
            wanted = expected(model, pixels)
            found = dict(zip(names, session.run(None, {"image": pixels.numpy()}), strict=True))
            for stage in study.stages:
                assert close(found[stage.name], wanted[stage.name].numpy(), tolerance), stage.name
                assert found[stage.name].shape[1:] == stage.shape
            has_class_maps = "vgg" not in model.pretrained_cfg["architecture"]
            assert ("class_maps" in found) == has_class_maps == (study.class_weights is not None)
            if has_class_maps:
                logits = found["class_maps"].mean((2, 3)) + model.get_classifier().bias.detach().numpy()
                assert close(logits, wanted["logits"].numpy(), tolerance)


def test_the_file_has_no_classifier(network: tuple[nn.Module, graph.Study, tuple[int, int, int]]) -> None:
    _, study, _ = network
    # VGG16's convolutions alone; of its classifier, narrow as it is here, 1.6 or 0.8 MB more.
    assert study.proto.ByteSize() < 59.5e6
    assert not any("fc" in tensor.name and np.prod(tensor.dims) > 1e5 for tensor in study.proto.graph.initializer)


def test_the_first_filters_are_the_first_convolutions(
    network: tuple[nn.Module, graph.Study, tuple[int, int, int]],
) -> None:
    model, study, size = network
    first = study.stages[0]
    weight = model.get_submodule(first.layer).weight.detach().numpy()
    assert f"{first.layer}.weight" == f"{model.pretrained_cfg['first_conv']}.weight"
    for channel, found in enumerate(first.filters):
        assert found is not None
        assert (found.inputs, found.weights.shape) == (size[2], weight[channel].shape)
        assert found.shown == tuple(range(size[2]))
        # The norm after the convolution scales each filter, and may turn its sign.
        product = float((found.weights * weight[channel]).sum())
        norms = float(np.linalg.norm(found.weights.astype(float)) * np.linalg.norm(weight[channel]))
        assert abs(product) > 0.999 * norms
        assert np.abs(found.weights).max() == 127


def test_every_channel_has_the_filter_that_makes_it(
    network: tuple[nn.Module, graph.Study, tuple[int, int, int]],
) -> None:
    model, study, _ = network
    kernels = {tuple(module.kernel_size) for module in model.modules() if isinstance(module, nn.Conv2d)}
    for stage in study.stages[1:]:
        assert len(stage.filters) == stage.shape[0]
        for found in stage.filters:
            assert found is not None
            assert found.weights.shape[1:] in kernels
            assert len(found.shown) == 6
            sizes = np.abs(found.weights.astype(int)).sum((1, 2))
            assert (np.diff(sizes) <= found.weights[0].size).all()  # largest first, but for rounding


def test_a_value_depends_on_its_field_and_on_nothing_else(
    network: tuple[nn.Module, graph.Study, tuple[int, int, int]],
) -> None:
    model, study, size = network
    pixels = images(size, 1).repeat(2, 1, 1, 1)
    for stage in study.stages:
        _, height, width = stage.shape
        for y, x in {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}:
            rows, columns = slice(stage.field.rows[y][0], stage.field.rows[y][1] + 1), stage.field.columns[x]
            outside = torch.ones(size[:2], dtype=torch.bool)
            outside[rows, columns[0] : columns[1] + 1] = False
            changed = pixels.clone()
            changed[1][outside] = 255 - changed[1][outside]
            values = expected(model, changed)[stage.name][:, :, y, x]
            assert torch.allclose(values[0], values[1], rtol=1e-4, atol=1e-5), stage.name


def test_fields_of_known_size() -> None:
    torch.manual_seed(0)
    model = narrow_vgg16("vanilla_vgg16.cifar10").eval()
    (_, first), (shape, middle), (_, last) = receptive_fields(graph.Stages(model, False), (32, 32, 3))
    assert first.rows == [(max(0, i - 1), min(31, i + 1)) for i in range(32)]
    # 3x3 twice, pooled, 3x3 twice, pooled, 3x3 thrice: 40 pixels at steps of 4.
    assert shape == (256, 8, 8)
    assert middle.columns == [(max(0, 4 * i - 18), min(31, 4 * i + 21)) for i in range(8)]
    assert last == Field([(0, 31)], [(0, 31)])


def test_a_network_that_tells_no_stages_has_no_study() -> None:
    with pytest.raises(graph.NoStudy, match="which stages"):
        graph.build(models.create("tiny_net", "cifar10", 10, 3).eval(), (32, 32, 3))


@pytest.mark.slow
def test_other_networks_of_timm_have_what_they_have() -> None:
    """Not a ReLU, and a shortcut added to most maps; the classifier comes after a norm, so there are no class maps."""
    torch.manual_seed(0)
    study = graph.build(models.create("convnext_atto", "cifar10", 10, 3, side=64).eval(), (32, 32, 3))
    assert study.class_weights is None
    assert [stage.shape[0] for stage in study.stages] == [40, 80, 320]
    session = runtime.session(study.proto.SerializeToString())
    assert [output.name for output in session.get_outputs()] == list(graph.STAGES)
