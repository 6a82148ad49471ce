"""The faster convolutions give what PyTorch's own give."""

import copy
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo  # noqa: F401
from train.speed import convolution


def both(channels: int, out: int, bias: bool = True, kernel: int = 3, stride: int = 1) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice: PyTorch's in double precision, and the faster one."""
    own = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias).double()
    faster = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias)
    faster.load_state_dict(own.state_dict())
    convolution.use_faster(faster)
    assert type(faster) is convolution.Conv2d
    return own, faster


def error(expected: Tensor, found: Tensor) -> float:
    return ((expected - found).abs().max() / expected.abs().max()).item()


def differentiated(conv: nn.Conv2d, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """What a convolution gives, and the gradients of its input and parameters."""
    x = x.clone().requires_grad_()
    y = conv(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *conv.parameters()], gradient)]


def relative(expected: Tensor, found: Tensor) -> float:
    """Root mean square of the differences, in that of the values."""
    return ((expected - found).norm() / expected.norm()).item()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 32, 65, 128]),
    out=st.sampled_from([1, 5, 32, 64, 128]),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    bias=st.booleans(),
    kernel=st.sampled_from([1, 3, 3]),
    stride=st.sampled_from([1, 1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_values_and_all_gradients(
    n: int, channels: int, out: int, height: int, width: int, bias: bool, kernel: int, stride: int, seed: int
) -> None:
    """To float precision of the magnitudes that are added up: the sums themselves can come to nearly nothing."""
    torch.manual_seed(seed)
    own, faster = both(channels, out, bias, kernel, stride)
    magnitudes = copy.deepcopy(own)
    with torch.no_grad():
        for parameter in magnitudes.parameters():
            parameter.abs_()
    x = torch.randn(n, channels, height, width, dtype=torch.float64)
    gradient = torch.randn_like(own(x))

    exact = differentiated(own, x, gradient)
    found = differentiated(faster, x.float(), gradient.float())
    sums = differentiated(magnitudes, x.abs(), gradient.abs())
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in exact]
    for wanted, got, most in zip(exact, found, sums, strict=True):
        assert (wanted - got).abs().max() < 2e-6 * most.max()


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "tiles", "most"),
    [
        (3, 1, 1, False, 0.004), (3, 1, 2, False, 0.004), (3, 2, 3, False, 0.004), (3, 2, 8, True, 0.004),
        (1, 1, 8, False, 0.004), (1, 1, 8, True, 0.004), (1, 2, 4, False, 0.004),
        (3, 1, 3, False, 0.02), (3, 1, 8, False, 0.02), (3, 1, 13, False, 0.02), (3, 1, 4, True, 0.02),
    ],
)  # fmt: skip
def test_values_and_all_gradients_under_autocast(
    kernel: int, stride: int, side: int, tiles: bool, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are as exact as PyTorch's bf16; Winograd's transforms enlarge the rounding errors some six times."""
    torch.manual_seed(0)
    own, faster = both(64, 128, kernel=kernel, stride=stride)
    x = torch.randn(40, 64, side, side, dtype=torch.float64, requires_grad=True)
    expected = own(x)
    gradient = torch.randn_like(expected)
    rounded = x.detach().float().requires_grad_()

    def never(*args: Any) -> None:
        raise AssertionError("PyTorch's own way was taken")

    monkeypatch.setattr(nn.Conv2d, "forward", never)
    monkeypatch.setattr(convolution, "has_tiles", lambda dtype: tiles)
    with torch.autocast("cpu", torch.bfloat16):
        y = faster(rounded)
    monkeypatch.undo()
    assert y.dtype == torch.bfloat16
    y.backward(gradient.bfloat16())
    expected.backward(gradient)
    assert relative(expected, y) < most
    assert relative(x.grad, rounded.grad) < most  # type: ignore[arg-type]
    assert relative(own.weight.grad, faster.weight.grad) < most  # type: ignore[arg-type]
    assert relative(own.bias.grad, faster.bias.grad) < most  # type: ignore[arg-type]
    assert faster.weight.grad is not None
    assert faster.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("side", [1, 2, 8])
def test_batches_larger_than_a_chunk(side: int) -> None:
    torch.manual_seed(0)
    own, faster = both(64, 128)
    x = torch.randn(convolution.TILE_BYTES, 64, side, side)
    assert error(own(x.double()), faster(x)) < 1e-5
    assert faster(x[:0]).shape == (0, 128, side, side)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(1, 3, 1), (8, 3, 1), (8, 1, 1), (4, 3, 2)])
def test_a_result_may_be_changed_in_place(side: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    own, faster = both(64, 128, kernel=kernel, stride=stride)
    x = torch.randn(2, 64, side, side).requires_grad_()
    expected, x_grad = own(x.double()).relu(), None
    (x_grad,) = torch.autograd.grad(expected.sum(), x)
    nn.ReLU(inplace=True)(faster(x)).sum().backward()
    assert error(x_grad, x.grad) < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stride", "side", "bf16", "float32"),
    [
        (1, 2, "_Dense", "_Dense"), (1, 4, "_Winograd", "_Winograd"), (1, 5, "", "_Winograd"),
        (1, 16, "", "_Winograd"), (2, 4, "_Product", "_Product"), (2, 8, "_Product", ""), (2, 16, "", ""),
    ],
)  # fmt: skip
def test_what_is_taken_with_tiles_and_without(
    stride: int, side: int, bf16: str, float32: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bf16 products are cheap, Winograd's transforms cost more than they save, and rows of pixels less than
    PyTorch's strided convolutions; float32 has no such products.
    """
    _, faster = both(128, 128, stride=stride)
    calls: list[tuple[str, torch.dtype]] = []

    def note(way: str) -> None:
        apply = getattr(convolution, way).apply

        def noted(x: Tensor, *others: Any) -> Tensor:
            calls.append((way, x.dtype))
            return apply(x, *others)

        monkeypatch.setattr(getattr(convolution, way), "apply", noted)

    for way in ("_Product", "_Dense", "_Winograd"):
        note(way)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    convolution.has_tiles.cache_clear()
    try:
        x = torch.randn(2, 128, side, side)
        with torch.autocast("cpu", torch.bfloat16):
            faster(x)
        faster(x)
    finally:
        convolution.has_tiles.cache_clear()
    assert calls == [(way, dtype) for way, dtype in ((bf16, torch.bfloat16), (float32, torch.float32)) if way]


def test_elsewhere_it_is_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _, faster = both(64, 128)
    x = torch.randn(2, 64, 8, 8)

    def never(*args: Any) -> None:
        raise AssertionError("the faster way was taken")

    monkeypatch.setattr(convolution._Product, "apply", never)
    monkeypatch.setattr(convolution._Winograd, "apply", never)
    for other in (faster, both(64, 32, kernel=1)[1]):
        with pytest.raises(AssertionError, match="faster way"):
            other(x)
    with torch.autocast("cpu", torch.float16):
        assert faster(x).dtype == torch.float16
    assert copy.deepcopy(faster).double()(x.double()).dtype == torch.float64
    for channels, out in ((64, 64), (16, 512)):  # too few
        few = both(channels, out)[1]
        assert torch.equal(few(x[:, :channels]), nn.Conv2d.forward(few, x[:, :channels]))
        with torch.autocast("cpu", torch.bfloat16):
            assert few(x[:, :channels]).dtype == torch.bfloat16


def test_only_what_fits_is_changed_and_all_of_it_back() -> None:
    model = timm.create_model("vanilla_googlenet", num_classes=10)
    others = nn.Sequential(
        nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 5, padding=2), nn.Conv2d(32, 32, 1, padding=1),
        nn.Conv2d(32, 32, 1, groups=2), nn.Conv2d(32, 32, 3, padding=1, groups=2), nn.Conv2d(32, 32, 3, padding="same"),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2), nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
    )  # fmt: skip
    convolution.use_faster(others)
    assert {type(module) for module in others} == {nn.Conv2d}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolution.use_faster(model)
    assert sum(type(module) is convolution.Conv2d for module in model.modules()) == 56
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    convolution.use_own(model)
    assert not any(type(module) is convolution.Conv2d for module in model.modules())


def test_for_a_while() -> None:
    own, other = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
    convolution.use_faster(other)
    model = nn.Sequential(own, other)
    with convolution.faster(model):
        assert {type(module) for module in model} == {convolution.Conv2d}
    assert (type(own), type(other)) == (nn.Conv2d, convolution.Conv2d)


@pytest.mark.parametrize("name", ["vanilla_googlenet", "improved_resnet18"])
def test_networks(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=10).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model, "drop_rate"):
        model.drop_rate = 0.0
    faster = copy.deepcopy(model)
    convolution.use_faster(faster)
    x = torch.randn(8, 3, 32, 32)

    def gradients(network: nn.Module, x: Tensor, bf16: bool = False) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(x)
        logits.square().sum().backward()
        return torch.cat([parameter.grad.double().flatten() for parameter in network.parameters()])

    ours, coarse = gradients(faster, x), gradients(model, x, bf16=True)
    exact = gradients(model.double(), x.double())
    # Small differences grow on their way through norms and kinks. Of all that mixed precision adds this is a fraction.
    assert (ours - exact).norm() < (coarse - exact).norm() / 10
