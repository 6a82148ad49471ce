"""A trained network that only answers, as a CPU computes it sooner: its layers merged.

In evaluation mode a norm is one more factor and offset of the convolution before it, and a ReLU can be taken of a
convolution's sums before they are written: of three ways from memory and back one is left. docs/performance.md has what
that makes of a network.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from train import convolution

# Input times output channels, from which on Winograd's algorithm pays off forward where products are cheap.
FEWEST_PRODUCTS_WITH_TILES = 512 * 512


class ConvReLU(convolution.Conv2d):
    """A convolution and the ReLU of what it gives, without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        x = convolution.autocast(x)
        y = self.faster(x) if self._gains(x) else None
        if y is not None:
            return F.relu_(y)
        if not _is_for_onednn(x):
            return F.relu_(nn.Conv2d._conv_forward(self, x, self.weight, self.bias))
        weight, bias = (None if own is None else own.to(x.dtype) for own in (self.weight, self.bias))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        # What `torch.compile` makes of the two, for which it needs a compiler.
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "relu", [], "")

    def _gains(self, x: Tensor) -> bool:
        """Whether the faster way is so forward too. Plain products gain by their gradients, but for small maps."""
        if max(convolution.positions(x.shape, self.stride)) <= convolution.LARGEST_SMALL:
            return True
        fewest = FEWEST_PRODUCTS_WITH_TILES if convolution.has_tiles(x.dtype) else 0
        return self.kernel_size != (1, 1) and self.weight.shape[:2].numel() >= fewest


def _is_for_onednn(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def merged(model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
    """A copy of a network that gives the same outputs, to float precision, sooner and without gradients.

    Args:
        model: on the CPU, in evaluation mode. One that torch.fx cannot trace, or traces wrongly, is returned as it is.
        input_size: channels, height and width of what it is made for.
    """
    x = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    try:
        traced = cast(fx.GraphModule, fuse(_norms_and_activations_apart(model), inplace=True))
        _merge_relus(traced)
        found = traced(x)
    except Exception:  # a forward pass can do anything with the tensors that it takes a tracer's proxies for
        return model
    agrees = (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    return traced.eval() if agrees else model


def _norms_and_activations_apart(model: nn.Module) -> nn.Module:
    """A copy whose norms are PyTorch's own: timm has a kind with an activation in it, GoogLeNet's for one."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is BatchNormAct2d:
                norm = nn.BatchNorm2d(child.num_features, child.eps).eval()
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, nn.Sequential(norm, child.drop, child.act))
    return model


def _merge_relus(traced: fx.GraphModule) -> None:
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and type(modules[str(node.target)]) is nn.Identity:  # timm's ResNet has many
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
        if not _is_relu(node, modules):
            continue
        before = node.args[0]
        conv = modules.get(str(before.target)) if before.op == "call_module" else None
        alone = len(before.users) == 1 and calls.count(before.target) == 1
        if type(conv) is nn.Conv2d and convolution.fits(conv) and alone:
            conv.__class__ = ConvReLU
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return node.op == "call_function" and node.target is F.relu
