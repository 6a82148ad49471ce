"""From a timm model to its ONNX graph: the dataset's own pixels in, logits and probabilities out.

Scaling, resizing, normalisation, network and calibrated softmax are all in the graph.
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
from zoo.calibration import Calibration, calibrated

OPSET = 20


def build(
    model: nn.Module, image_size: tuple[int, int, int], calibration: Calibration | None = None
) -> onnx.ModelProto:
    """Export a model in evaluation mode as an fp32 graph.

    Args:
        model: a timm model, with its `pretrained_cfg`.
        image_size: of the dataset's own images, (height, width, channels) in pixels.
        calibration: of the probabilities; None for the plain softmax.
    """
    example = torch.zeros((2, *image_size), dtype=torch.uint8)  # the exporter would take a batch of 1 for a constant
    with warnings.catch_warnings(), quiet("torch.onnx"), torch.inference_mode():
        warnings.simplefilter("ignore")  # of deprecated functions that the exporter itself calls
        folded = factor(fold(model, models.pretrained_cfg(model)["input_size"]))
        program = torch.onnx.export(
            Classifier(folded, image_size, calibration or Calibration()).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            input_names=["image"],
            output_names=["logits", "probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # it is None only where the exporter writes a file itself
    proto = program.model_proto
    _remove_traces(proto)
    small_maps.crop_kernels(proto)
    onnx.checker.check_model(proto)
    return proto


class Classifier(nn.Module):
    """A network with its preprocessing: uint8 [batch, H, W, C] -> logits and probabilities, float32 [batch, classes].

    The logits are the network's own, the probabilities calibrated.

    Args:
        model: has the `pretrained_cfg` of a timm model.
        image_size: (height, width, channels) in pixels.
        calibration: of the probabilities.
    """

    def __init__(self, model: nn.Module, image_size: tuple[int, int, int], calibration: Calibration) -> None:
        super().__init__()
        height, width, channels = image_size
        self.preprocess = MatrixResize(models.pretrained_cfg(model))
        # One value for each pixel: ONNX Runtime moves the subtraction before the transpose, to [batch, H, W, C], where
        # subtracting one value for each channel takes ten times as long.
        for name in ("mean", "std"):
            values = getattr(self.preprocess, name)
            setattr(self.preprocess, name, values.expand(1, channels, height, width).contiguous())
        self.model = model
        self.calibration = calibration

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Classify uint8 [batch, H, W, C]."""
        # Contiguous: ONNX would have to reproduce what PyTorch does for the strides of channels_last maps after a pool.
        logits = self.model(self.preprocess(image.permute(0, 3, 1, 2).contiguous()))
        return logits, calibrated(logits, *self.calibration)


class MatrixResize(Preprocess):
    """Preprocessing that resizes by two matrix products, which take a fifth of the time of ONNX Runtime's Resize."""

    def resize(self, x: Tensor) -> Tensor:
        """Resize float32 [n, channels, h, w] bilinearly, as `Preprocess` does."""
        # Resizing an identity matrix gives the weights of one side.
        down, across = (
            Preprocess.resize(self.at((size, length)), torch.eye(length)[None, None])[0, 0]
            for size, length in zip(self.size, x.shape[-2:], strict=True)
        )
        # Expanded: ONNX Runtime cannot broadcast to an empty batch.
        return down.expand(*x.shape[:2], -1, -1) @ (x @ across.T)


def _remove_traces(proto: onnx.ModelProto) -> None:
    """Remove stack traces, which hold paths of this machine."""
    for entry in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]


@contextmanager
def quiet(name: str | None = None) -> Iterator[None]:
    """Silence a logger's warnings, which are about choices made here on purpose. None is the root logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
