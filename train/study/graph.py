"""From a timm model to the graph of its study file: the dataset's own pixels in, maps out."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from train.onnx_export import small_maps
from train.onnx_export.graph import OPSET, MatrixResize, quiet
from train.study.fields import Field, first_convolution, receptive_fields
from train.study.filters import Filter, filters
from train.training import models

STAGES = ("first", "middle", "last")
CLASS_MAPS = "class_maps"
# Smaller tensors stay float32: they are few bytes, and the preprocessing is among them.
LEAST_HALVED = 2**10


class NoStudy(Exception):
    """A network that has no maps to show: it does not tell timm which stages it has."""


@dataclass(frozen=True)
class Stage:
    """What is known of one stage, whose maps are the output of the same name.

    Attributes:
        name: one of `STAGES`.
        layer: the network's own name of the layer that ends the stage.
        shape: of its maps, (channels, height, width).
        field: what each position sees of the image.
        filters: the filter that makes each channel; None where no single convolution does.
    """

    name: str
    layer: str
    shape: tuple[int, int, int]
    field: Field
    filters: list[Filter | None]


@dataclass(frozen=True)
class Study:
    """The graph of a study file, its stages, and how much each channel of the last one counts for each class.

    Attributes:
        class_weights: float32 [classes, channels]; None for a network without class activation maps.
    """

    proto: onnx.ModelProto
    stages: list[Stage]
    class_weights: np.ndarray | None


class Stages(nn.Module):
    """A network with its preprocessing up to its last stage: uint8 [batch, H, W, C] -> maps, float32 [batch, ...].

    The class activation maps (Zhou et al., arXiv 1512.04150) are the last map's channels, summed with the classifier's
    weights: their mean and the bias are the logits.
    """

    def __init__(self, model: nn.Module, with_class_maps: bool) -> None:
        super().__init__()
        self.preprocess = MatrixResize(models.pretrained_cfg(model))
        self.model = model
        self.with_class_maps = with_class_maps
        _, *self.indices = stage_indices(model)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the middle and of the last stage and, if wanted, the class activation maps."""
        network: Any = self.model
        x = self.preprocess(image.permute(0, 3, 1, 2).contiguous())
        last, maps = network.forward_intermediates(x, indices=self.indices)
        if not self.with_class_maps:
            return tuple(maps)
        weight = network.get_classifier().weight[:, :, None, None]
        return *maps, nn.functional.conv2d(last, weight)


def stage_indices(model: nn.Module) -> tuple[int, int, int]:
    """Choose the first, a middle and the last of the stages that a network tells timm.

    Raises:
        NoStudy: it tells none.
    """
    info: Any = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "forward_intermediates"):
        raise NoStudy("the network does not tell timm which stages it has")
    return 0, (len(info) - 1) // 2, len(info) - 1


def build(model: nn.Module, image_size: tuple[int, int, int]) -> Study:
    """Export a model in evaluation mode as the graph of its study file, with float32 weights.

    Args:
        model: a timm model, with its `pretrained_cfg`.
        image_size: of the dataset's own images, (height, width, channels) in pixels.

    Raises:
        NoStudy: the network has no maps to show.
    """
    network: Any = model
    _, middle, last = stage_indices(model)
    pools = pools_globally(model)
    module = Stages(model, pools).eval()
    example = torch.zeros((2, *image_size), dtype=torch.uint8)
    with torch.inference_mode():
        if any(map_.ndim != 4 for map_ in module(example)):
            raise NoStudy("its stages are no maps")
    with warnings.catch_warnings(), quiet("torch.onnx"), torch.inference_mode():
        warnings.simplefilter("ignore")  # of deprecated functions that the exporter itself calls
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            input_names=["image"],
            output_names=[*STAGES[1:], *([CLASS_MAPS] if pools else [])],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # it is None only where the exporter writes a file itself
    proto = program.model_proto
    _remove_traces(proto)
    _add_first(proto)
    found = {name: filters(proto, name) for name in STAGES}
    layers = (first_convolution(model), *(network.feature_info[index]["module"] for index in (middle, last)))
    fields = receptive_fields(module, image_size)
    stages = [
        Stage(name, layer, shape, field, found[name])
        for name, layer, (shape, field) in zip(STAGES, layers, fields, strict=True)
    ]
    small_maps.crop_kernels(proto)
    onnx.checker.check_model(proto)
    weights = network.get_classifier().weight.detach().numpy() if pools else None
    return Study(proto, stages, weights)


@torch.inference_mode()
def pools_globally(model: nn.Module) -> bool:
    """Tell whether a network's logits are the means of its class activation maps, plus a bias: for random input."""
    network: Any = model
    classifier = network.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        return False
    x = torch.randn(2, *models.pretrained_cfg(model)["input_size"], generator=torch.Generator().manual_seed(0))
    last, _ = network.forward_intermediates(x, indices=[stage_indices(model)[-1]])
    if last.ndim != 4 or last.shape[1] != classifier.in_features:
        return False
    return torch.allclose(classifier(last.mean((2, 3))), network(x), rtol=1e-3, atol=1e-3)


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Store the large weights of a graph as float16, in place: ONNX Runtime widens them when it loads the file."""
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_HALVED:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        proto.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    onnx.checker.check_model(proto)
    return proto


def _add_first(proto: onnx.ModelProto) -> None:
    """Make the map of the first convolution, with its norm and ReLU, the first output of a graph."""
    graph = proto.graph
    convolution = next((node for node in graph.node if node.op_type == "Conv"), None)
    if convolution is None:
        raise NoStudy("it has no convolution")
    tap = convolution.output[0]
    while following := [node for node in graph.node if tap in node.input]:
        if len(following) > 1 or following[0].op_type not in ("BatchNormalization", "Relu"):
            break
        tap = following[0].output[0]
    weight = next(tensor for tensor in graph.initializer if tensor.name == convolution.input[1])
    graph.node.append(helper.make_node("Identity", [tap], [STAGES[0]]))
    others = list(graph.output)
    del graph.output[:]
    shape = ["batch", weight.dims[0], None, None]
    graph.output.extend([helper.make_tensor_value_info(STAGES[0], TensorProto.FLOAT, shape), *others])


def _remove_traces(proto: onnx.ModelProto) -> None:
    """Remove stack traces, which hold paths of this machine."""
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del entry.metadata_props[:]
        entry.doc_string = ""
