"""What a timm user expects of a model: registry, configuration, heads, features, tracing."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import create_feature_extractor, group_parameters
from torch import nn

from zoo.catalog import NETWORKS

CIFAR10 = ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784))
MNIST = ((0.13066048,), (0.30810781,))

FORMS = ("improved", "vanilla")
# The paper's networks and the side of their input; any other has its own.
SIZES = {
    f"{form}_{network}": size
    for form, size in zip(FORMS, (64, 32), strict=True)
    for network in ("googlenet", "resnet18", "vgg16")
}

Images = Callable[..., torch.Tensor]


def test_the_papers_networks_are_in_the_catalog() -> None:
    assert SIZES.keys() <= NETWORKS.keys()


def test_registered_names_and_tags() -> None:
    """What the families register is what the catalog lists, with a tag for each dataset."""
    ours = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("zoo.")]
    assert sorted(ours) == sorted(NETWORKS)
    for form in FORMS:
        names = sorted(name for name in NETWORKS if name.startswith(form))
        assert timm.list_models(f"{form}_*") == names
        tags = [f"{name}.{dataset}" for name in names for dataset in ("cifar10", "mnist")]
        assert timm.list_models(f"{form}_*", include_tags=True) == tags


@pytest.mark.parametrize("name", NETWORKS)
def test_the_catalog_names_the_family_that_registers(name: str) -> None:
    assert timm.model_entrypoint(name).__module__ == f"zoo.{NETWORKS[name].family}"


@pytest.mark.parametrize(
    ("tag", "chans", "statistics"), [("", 3, CIFAR10), (".cifar10", 3, CIFAR10), (".mnist", 1, MNIST)]
)
def test_configuration(name: str, tag: str, chans: int, statistics: tuple[tuple[float, ...], ...]) -> None:
    model: Any = timm.create_model(name + tag, device="meta").eval()
    size = SIZES.get(name) or timm.get_pretrained_cfg(name).input_size[-1]
    config = resolve_model_data_config(model)
    assert config["input_size"] == (chans, size, size)
    assert (config["mean"], config["std"]) == statistics
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 1.0)
    cfg = model.default_cfg
    assert (cfg["num_classes"], cfg["license"], cfg["tag"]) == (10, "apache-2.0", tag[1:] or "cifar10")
    assert model.get_submodule(cfg["first_conv"]).in_channels == model.in_chans == chans
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    last_map = model.forward_features(torch.empty(2, chans, size, size, device="meta"))
    assert last_map.shape == (2, model.num_features, *cfg["pool_size"])


def test_heads(name: str, images: Images) -> None:
    model = timm.create_model(name, num_classes=7, device="meta").eval()
    x = images(device="meta")
    assert model(x).shape == (2, 7)
    features = model.forward_features(x)
    assert model.forward_head(features).shape == (2, 7)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)
    assert model.get_classifier().out_features == model.num_classes == 5
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)
    assert timm.create_model(name, num_classes=0, device="meta")(x).shape == (2, model.head_hidden_size)


def test_forward_is_features_then_head(model: nn.Module, images: Images) -> None:
    with torch.no_grad():
        assert torch.equal(model(images()), model.forward_head(model.forward_features(images())))


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_resnet18", "vanilla_googlenet", "improved_googlenet"])
def test_global_pool(name: str, images: Images) -> None:
    x = images(device="meta")
    both = timm.create_model(name, global_pool="catavgmax", device="meta")
    assert both(x).shape == (2, 10)
    assert both.head_hidden_size == 2 * both.num_features
    both.reset_classifier(5, global_pool="avg")
    assert both(x).shape == (2, 5)
    none = timm.create_model(name, num_classes=0, global_pool="", device="meta")
    assert none(x).shape == (2, none.num_features, *none.default_cfg["pool_size"])


@pytest.mark.parametrize("name", ["vanilla_vgg16", "improved_vgg16"])
def test_global_pool_of_vgg(name: str, images: Images) -> None:
    """It pools the 1x1 map between the hidden layers and the classifier."""
    both = timm.create_model(name, global_pool="catavgmax", device="meta")
    assert both(images(device="meta")).shape == (2, 10)
    assert both.pre_logits.fc2.out_features == 4096
    assert both.get_classifier().in_features == both.head_hidden_size == 8192
    both.reset_classifier(5, global_pool="avg")
    assert both(images(device="meta")).shape == (2, 5)


def test_drop_rate_can_be_chosen(name: str, model: nn.Module, images: Images) -> None:
    state = {n: v.clone() if "running" in n else v for n, v in model.state_dict().items()}  # training changes those
    x = images(4)
    for rate, same in ((0.0, True), (0.5, False)):
        net = timm.create_model(name, drop_rate=rate, device="meta").train()
        assert net.drop_rate == rate
        assert all(module.p == rate for module in net.modules() if isinstance(module, nn.Dropout))
        # What is no module shows in the logits: chance has no part in them, and has one where it is asked for.
        net.load_state_dict(state, assign=True)
        with torch.no_grad():
            assert torch.equal(net(x), net(x)) is same


def test_resetting_the_classifier_resets_the_auxiliary_ones() -> None:
    model = timm.create_model("vanilla_googlenet", aux_logits=True, device="meta").train()
    model.reset_classifier(4)
    outputs = model(torch.empty(2, 3, 32, 32, device="meta"))
    assert [tuple(logits.shape) for logits in outputs] == [(2, 4)] * 3


def test_intermediates(model: nn.Module, images: Images) -> None:
    x = images()
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, model.forward_features(x))
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
        sides = [math.ceil(x.shape[-1] / info["reduction"]) for info in model.feature_info]
        assert [m.shape[-1] for m in maps] == sides
        early = model.forward_intermediates(x, indices=[1, 3], stop_early=True, intermediates_only=True)
    assert len(early) == 2
    assert torch.equal(early[0], maps[1])
    assert torch.equal(early[1], maps[3])


def test_features_only(name: str, images: Images) -> None:
    extractor = timm.create_model(name, features_only=True, device="meta")
    maps = extractor(images(device="meta"))
    assert [m.shape[1] for m in maps] == extractor.feature_info.channels()
    size = images().shape[-1]
    assert [m.shape[-1] for m in maps] == [math.ceil(size / r) for r in extractor.feature_info.reduction()]
    assert (
        len(timm.create_model(name, features_only=True, out_indices=(0, 2), device="meta")(images(device="meta"))) == 2
    )


def test_pruning_to_an_intermediate(name: str, images: Images) -> None:
    model = timm.create_model(name, device="meta").eval()
    expected = model.forward_intermediates(images(device="meta"), intermediates_only=True)[1]
    before = sum(p.numel() for p in model.parameters())
    model.prune_intermediate_layers([1])
    assert model.forward_features(images(device="meta")).shape == expected.shape
    if "googlenet" in name:  # timm's own keep the whole network's
        assert model.num_features == expected.shape[1]
    assert sum(p.numel() for p in model.parameters()) < before / 10


def test_unknown_output_format_is_refused() -> None:
    model = timm.create_model("vanilla_googlenet", device="meta")
    with pytest.raises(ValueError, match=r"Unknown output_fmt 'NLC'\. Valid: 'NCHW'"):
        model.forward_intermediates(torch.empty(1, 3, 32, 32, device="meta"), output_fmt="NLC")


def test_parameter_groups_rise_from_stem_to_head(name: str) -> None:
    model = timm.create_model(name, device="meta")
    layer = group_parameters(model, model.group_matcher(), reverse=True)
    assert layer.keys() == {n for n, _ in model.named_parameters()}
    assert layer[model.default_cfg["first_conv"] + ".weight"] == 0
    assert layer[model.default_cfg["classifier"] + ".weight"] == max(layer.values())
    assert len(set(layer.values())) >= 5


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_resnet18"])
def test_gradient_checkpointing(model: nn.Module, images: Images) -> None:
    with torch.no_grad():
        expected = model(images())
    model.set_grad_checkpointing()
    try:
        torch.testing.assert_close(model(images()), expected)
    finally:
        model.set_grad_checkpointing(False)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_torchscript(model: nn.Module, images: Images) -> None:
    scripted = torch.jit.script(model)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images()), model(images()))


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_scripted_auxiliary_heads_evaluate_and_refuse_to_train() -> None:
    model = timm.create_model("vanilla_googlenet", aux_logits=True).eval()
    scripted = torch.jit.script(model)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), model(x))
        with pytest.raises(torch.jit.Error, match="no auxiliary heads"):
            scripted.train()(x)


def test_fx(model: Any, images: Images) -> None:
    graph = create_feature_extractor(model, {model.default_cfg["classifier"]: "logits"})
    with torch.no_grad():
        assert torch.equal(graph(images())["logits"], model(images()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_export(model: nn.Module, images: Images) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(model, (images(),), dynamo=True, dynamic_shapes={"x": {0: "batch"}}, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (graph_input,) = session.get_inputs()
    assert graph_input.shape[0] == "batch"
    for batch in (1, 5):
        x = images(batch)
        (logits,) = session.run(None, {graph_input.name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-4, atol=1e-4)
