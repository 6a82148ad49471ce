"""Activations and gradients at the start, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.data import loading
from train.data.preprocess import Preprocess
from train.lessons import signals
from train.paper import section4
from train.training.models import ModelError, pretrained_cfg


def test_signals_are_those_of_a_step(cifar10: loading.Dataset) -> None:
    torch.manual_seed(0)
    few = cifar10.train.spread(8)
    model = section4.build("resnet18", side=32).eval()
    x = Preprocess(pretrained_cfg(model))(few.images)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    found = {signal.name: signal for signal in signals.signals(model, x, few.labels, smoothing=0.1)}
    assert not model.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert next(iter(found)) == "conv1"
    assert len(found) == 21

    kept: list[Tensor] = []
    model.layer3[0].conv2.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    model.train()(x)  # BatchNorm's gradients are those of the batch
    kept.clear()
    loss = F.cross_entropy(model(x), few.labels, label_smoothing=0.1, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, kept[0], retain_graph=True)
    (loss / len(x)).backward()
    signal, weight = found["layer3.0.conv2"], model.layer3[0].conv2.weight
    assert signal.activation == pytest.approx(kept[0].std().item(), rel=1e-4)
    assert signal.gradient * len(x) == pytest.approx(gradient.std().item(), rel=1e-4)
    assert signal.update == pytest.approx((weight.grad.norm() / weight.norm()).item(), rel=1e-4)


def test_section_4_keeps_the_gradients_of_vgg16_alive(cifar10: loading.Dataset) -> None:
    found = signals.of_changes("vgg16", cifar10.train.spread(8), side=32)
    assert list(found) == ["vanilla", "vanilla + norms", "vanilla + pool", "improved"]
    assert found["vanilla"].gradient_ratio < 0.01 < 0.1 < found["improved"].gradient_ratio
    assert found["vanilla"].parameters == 134_301_514
    assert found["improved"].parameters == 83_978_314


def test_a_single_change_is_measured_once_and_leaves_the_random_numbers(cifar10: loading.Dataset) -> None:
    few = cifar10.train.spread(4)
    state = torch.random.get_rng_state()
    found = signals.of_changes("googlenet", few, side=32)
    assert list(found) == ["vanilla", "improved"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert signals.of_changes("googlenet", few, side=32) == found
    with pytest.raises(ModelError, match="unknown family 'alexnet': valid are vgg16, resnet18, googlenet"):
        signals.of_changes("alexnet", few, side=32)
