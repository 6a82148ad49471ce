"""Test metrics of a published model or a run, and plots of them."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from train.data import loading
from train.data.preprocess import Preprocess
from train.files import write_json
from train.onnx_export import metadata
from train.onnx_export.runtime import predict
from train.records import SplitMetrics, as_dict
from train.speed import convolution
from train.training import models
from train.training.results import measure, plots
from train.training.results.predict import BATCH
from train.training.results.predict import predict as predict_split
from train.training.runs import epoch_log, run_data

RUNTIMES = ("torch", "onnx", "onnx-int8")
# How many of the most confident mistakes are shown.
MISTAKES = 24


class Features(nn.Module):
    """A timm model without its classifier: it returns the classifier's input, [batch, features]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch of images."""
        features: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return features


@dataclass(frozen=True)
class Subject(models.Trained):
    """A model to evaluate, and the test split of its dataset."""

    test: loading.Split = field(kw_only=True)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--eval-batch-size`, of all commands that measure."""

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
        return int(text)

    parser.add_argument(
        "--eval-batch-size",
        type=positive,
        metavar="N",
        help=f"images that are measured at a time (default: up to {BATCH}, fewer large ones, for little memory)",
    )


def load(name: str, data_dir: Path | None) -> Subject:
    """Load a published model, by name or folder, or a run, by folder.

    Raises:
        models.ModelError, data.DataError: the model or its data is not available.
    """
    trained = models.load(name)
    channels, _, side = models.pretrained_cfg(trained.model)["input_size"]
    folder = run_data.data_folder(trained.title, trained.data_dir, data_dir)
    dataset = loading.load(trained.dataset, folder, side, trained.data_options)
    run_data.require_same_data(trained.title, trained.class_names, channels, dataset)
    return Subject(**vars(trained), test=dataset.test)


def logits(subject: Subject, runtime: str, batch_size: int | None = None) -> np.ndarray:
    """Return the logits, float32 [n, classes], on the test split.

    Args:
        subject: what `load` returned.
        runtime: one of RUNTIMES; the last two run the ONNX files that `train/export.py` built.
        batch_size: images at a time; None for as many as fit in little memory.

    Raises:
        models.ModelError: there is no ONNX file.
    """
    if runtime == "torch":
        return torch_outputs(subject.model, subject.test, batch_size=batch_size)
    if not subject.published:
        raise models.ModelError(
            f"{subject.title} is a run: publish it, then evaluate the published model with {runtime}"
        )
    file = subject.folder / metadata.FILES["int8" if runtime == "onnx-int8" else "fp32"]
    if not file.is_file() and metadata.NO_INT8.items() <= metadata.stated(subject.folder / "model.onnx").items():
        raise models.ModelError(f"{subject.title} has no int8 file: it would lose too much accuracy")
    if not file.is_file():
        raise models.ModelError(f"{file} is not built yet: python train/export.py {subject.folder.name}")
    return predict(file, subject.test.images, batch_size)


def torch_outputs(
    model: nn.Module, split: loading.Split, features: bool = False, batch_size: int | None = None
) -> np.ndarray:
    """Return logits or features, float32 [n, ...], in full precision, computed on the GPU where there is one."""
    accelerator = Accelerator(mixed_precision="no")
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    network = (Features(model) if features else model).to(accelerator.device)
    with convolution.faster(network):
        found = predict_split(network, split.to(accelerator.device), preprocess, accelerator, batch_size)
    outputs: np.ndarray = found.cpu().numpy()
    return outputs


def accuracies(logits: np.ndarray, test: loading.Split, class_names: list[str]) -> SplitMetrics:
    """Return the metrics of logits, float32 [n, classes], on a test split."""
    return SplitMetrics(**measure.accuracies(logits, test.labels.numpy(), class_names))


def write(
    folder: Path, subject: Subject, outputs: np.ndarray, metrics: SplitMetrics, batch_size: int | None = None
) -> None:
    """Write the metrics, `figures.json`, and plots of them.

    The plots are `per_class.png`, `confusion_matrix.png`, `mistakes.png`, `components.png` and, where there is a log of
    the training, `curves.png`.
    """
    title, class_names = subject.title, subject.class_names
    labels = subject.test.labels.numpy()
    worst = measure.confident_mistakes(outputs, labels, MISTAKES)
    features = torch_outputs(subject.model, subject.test, features=True, batch_size=batch_size)
    points, shares = measure.principal_components(features)
    file = subject.folder / "log.csv"
    log = epoch_log.read(file) if file.is_file() else []
    write_json(
        folder / "figures.json",
        {"model": title, **as_dict(metrics), "confident_mistakes": worst, "components_variance": shares, "log": log},
    )
    if log:
        plots.curves(log, title, folder / "curves.png")
    plots.class_accuracies({"": {title: metrics.tested_classes}}, f"{title}, test split", folder / "per_class.png")
    confusion = np.array(metrics.confusion_matrix)
    plots.confusion_matrix(confusion, class_names, f"{title}, test split", folder / "confusion_matrix.png")
    rows = [mistake["row"] for mistake in worst]
    plots.mistakes(
        subject.test.images[rows].permute(0, 2, 3, 1).numpy(),
        labels[rows],
        outputs[rows].argmax(1),
        class_names,
        f"{title}: most confident mistakes, true class and predicted one",
        folder / "mistakes.png",
    )
    share = f"{100 * sum(shares):.0f} % of the variance"
    plots.components(
        points, labels, class_names, f"{title}: features of the test split, {share}", folder / "components.png"
    )
