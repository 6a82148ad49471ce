"""The layers of a network: what each one makes of its input, what it costs, and how much of the image it can see."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import BatchNormAct2d, SelectAdaptivePool2d
from torch import Tensor, fx, nn

from train.training.models import pretrained_cfg

# What a value of the output sees through them is a window of the input, or all of it.
WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
WHOLE = (nn.Linear, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, SelectAdaptivePool2d)
NORMS = (nn.BatchNorm2d,)


@dataclass(frozen=True)
class Layer:
    """A layer of a network, for one input size.

    Attributes:
        name: of the module, as in `model.get_submodule`.
        kind: such as "Conv2d 3x3 / 2" for a stride of 2.
        shape: of its output, without the batch: (channels, height, width) or (features,).
        parameters: its own.
        receptive_field: side, in input pixels, of the square that one value of the output can depend on; None where it
            depends on all of the input. It may be larger than the input, whose border is padded then.
        stride: input pixels between the squares of neighbouring values; None as above.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    receptive_field: int | None
    stride: int | None


@dataclass(frozen=True)
class _View:
    """What a value of a map sees of the input; see `Layer`."""

    field: int | None = 1
    stride: int | None = 1


class _Tracer(fx.Tracer):
    """Follows a network down to its single layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  torch's signature
        return not list(m.children()) or isinstance(m, (BatchNormAct2d, SelectAdaptivePool2d))


class _Looker(fx.Interpreter):
    """Runs a traced network, and notes each layer and what it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(fx.GraphModule(model, _Tracer().trace(model)))
        self.layers: list[Layer] = []
        self._views: dict[fx.Node, _View] = {}

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        # Where branches meet, the longest way sees most: GoogLeNet's modules, ResNet's blocks.
        before = [self._views[node] for node in n.all_input_nodes]
        view = _widest(before) if before else _View()
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            view = _through(module, view)
            if isinstance(module, (*WINDOWS, *WHOLE, *NORMS)) and not _does_nothing(module):
                parameters = sum(values.numel() for values in module.parameters())
                shape = tuple(output.shape[1:])
                self.layers.append(Layer(str(n.target), _kind(module), shape, parameters, view.field, view.stride))
        self._views[n] = view
        return output


def layers(model: nn.Module, size: tuple[int, int] | None = None) -> list[Layer]:
    """List a network's convolutions, norms, pools and linear layers, in the order in which they run.

    Args:
        model: a timm model; it is put into evaluation mode for a moment.
        size: height and width of the input, in pixels; None for the model's own.
    """
    channels, *sides = pretrained_cfg(model)["input_size"]
    training = model.training
    looker = _Looker(model.eval())
    with torch.inference_mode():
        looker.run(torch.zeros(1, channels, *(size or sides), device=next(model.parameters()).device))
    model.train(training)
    return looker.layers


def influence(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """Measure how much each pixel of the input moves the value in the middle of a layer's output.

    It is the gradient's size, the mean over the images and the sum over the channels of input and output. Its extent
    is the receptive field, of which the middle counts most (Luo et al., 2016, arXiv 1701.04128).

    Args:
        model: in evaluation or training mode, as it is to be measured.
        name: of a module whose output is a map, as `Layer.name`.
        x: images as the model takes them, float [n, channels, height, width].

    Returns:
        float32 [height, width], of which the largest value is 1.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found.append(output)

    hook = model.get_submodule(name).register_forward_hook(note)
    try:
        image = x.detach().clone().requires_grad_()
        model(image)
        # Through ReLUs that change the map in place, this is still the layer's own output: autograd keeps track.
        height, width = found[0].shape[-2:]
        middle = found[0][:, :, height // 2, width // 2]
        # A sum with random signs: without them, channels that pull in opposite directions would hide each other.
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, middle.shape, generator=generator).to(middle) * 2 - 1
        (gradient,) = torch.autograd.grad((middle * signs).sum(), image)
    finally:
        hook.remove()
    size = gradient.abs().sum(1).mean(0)
    return (size / size.max().clamp(min=1e-12)).detach().cpu()


def _widest(views: list[_View]) -> _View:
    whole = any(view.field is None for view in views)
    return _View(None, None) if whole else max(views, key=lambda view: view.field or 0)


def _through(module: nn.Module, view: _View) -> _View:
    """Return what a value of a layer's output sees, where one of its input has a view."""
    if isinstance(module, WHOLE) and not _does_nothing(module):
        return _View(None, None)
    if not isinstance(module, WINDOWS) or view.field is None or view.stride is None:
        return view
    size, stride, dilation = (_side(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    return _View(view.field + dilation * (size - 1) * view.stride, view.stride * stride)


def _does_nothing(module: nn.Module) -> bool:
    return isinstance(module, SelectAdaptivePool2d) and bool(module.is_identity())  # type: ignore[no-untyped-call]


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _kind(module: nn.Module) -> str:
    if isinstance(module, NORMS):  # timm's holds its activation too
        return "BatchNorm2d"
    name = type(module).__name__
    if not isinstance(module, WINDOWS):
        return name
    size, stride = _side(module.kernel_size), _side(module.stride)
    return f"{name} {size}x{size}" + (f" / {stride}" if stride > 1 else "")
