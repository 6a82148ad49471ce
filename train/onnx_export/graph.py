"""From a timm model to its ONNX graph: the dataset's own pixels in, logits and probabilities out.

Scaling, resizing, normalisation, network and softmax are all in the graph.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.onnx_export import small_maps
from train.speed.fold import factor, fold
from train.training import models

OPSET = 20


class _Preprocess(Preprocess):
    """The same with the resize as two matrix products, each side's weights in one matrix: a fifth of Resize's time."""

    def resize(self, x: Tensor) -> Tensor:
        down, across = (
            Preprocess.resize(self.at((size, length)), torch.eye(length)[None, None])[0, 0]
            for size, length in zip(self.size, x.shape[-2:], strict=True)
        )
        return down @ (x @ across.T)


class Classifier(nn.Module):
    """uint8 pixels [batch, H, W, C] -> logits and probabilities, float32 [batch, classes]."""

    def __init__(self, model: nn.Module, pixels: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = pixels
        self.preprocess = _Preprocess(models.pretrained_cfg(model))
        # One value a pixel: ONNX Runtime turns the graph to [batch, H, W, C], and takes ten times as long to subtract
        # three from every three.
        for name in ("mean", "std"):
            values = getattr(self.preprocess, name)
            setattr(self.preprocess, name, values.expand(1, channels, height, width).contiguous())
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Contiguous: what PyTorch does for the strides of channels_last maps behind a pool, ONNX would have to imitate.
        logits = self.model(self.preprocess(image.permute(0, 3, 1, 2).contiguous()))
        return logits, logits.softmax(dim=1)


@contextmanager
def quiet(name: str | None = None) -> Iterator[None]:
    """Keep a library's advice on what is done here on purpose from the terminal."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def build(model: nn.Module, pixels: tuple[int, int, int]) -> onnx.ModelProto:
    """The fp32 graph of a model in evaluation mode, for images of `pixels` (height, width, channels)."""
    example = torch.zeros((2, *pixels), dtype=torch.uint8)  # two: a batch of one would be taken for a constant
    with warnings.catch_warnings(), quiet("torch.onnx"), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Classifier(factor(fold(model, models.pretrained_cfg(model)["input_size"])), pixels).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            input_names=["image"],
            output_names=["logits", "probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # None is for the exporter that writes files
    proto = program.model_proto
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del entry.metadata_props[:]  # stack traces, with paths of the machine that exported
        entry.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    small_maps.crop_kernels(proto)
    onnx.checker.check_model(proto)
    return proto
