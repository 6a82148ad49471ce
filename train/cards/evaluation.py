"""Test metrics of a published model or a run, and plots of them."""

from dataclasses import dataclass
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
from train.training import epoch_log, measure, models, plots
from train.training.predict import predict as predict_split

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

    test: loading.Split


def load(name: str, data_dir: Path | None) -> Subject:
    """Load a published model, by name or folder, or a run, by folder.

    Raises:
        models.ModelError, data.DataError: the model or its data is not available.
    """
    trained = models.load(name)
    size = models.pretrained_cfg(trained.model)["input_size"][-1]
    test = loading.load(trained.dataset, data_dir, size).test
    return Subject(**vars(trained), test=test)


def logits(subject: Subject, runtime: str) -> np.ndarray:
    """Return the logits, float32 [n, classes], on the test split.

    Args:
        subject: what `load` returned.
        runtime: one of RUNTIMES; the last two run the ONNX files that `train/export.py` built.

    Raises:
        models.ModelError: there is no ONNX file.
    """
    if runtime == "torch":
        return torch_outputs(subject.model, subject.test)
    if not subject.published:
        raise models.ModelError(
            f"{subject.title} is a run: publish it, then evaluate the published model with {runtime}"
        )
    file = subject.folder / metadata.FILES["int8" if runtime == "onnx-int8" else "fp32"]
    if not file.is_file():
        raise models.ModelError(f"{file} is not built yet: python train/export.py {subject.folder.name}")
    return predict(file, subject.test.images)


def torch_outputs(model: nn.Module, split: loading.Split, features: bool = False) -> np.ndarray:
    """Return logits or features, float32 [n, ...], in full precision, computed on the GPU where there is one."""
    accelerator = Accelerator(mixed_precision="no")
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    network = (Features(model) if features else model).to(accelerator.device)
    with convolution.faster(network):
        found: np.ndarray = predict_split(network, split.to(accelerator.device), preprocess, accelerator).cpu().numpy()
    return found


def accuracies(logits: np.ndarray, test: loading.Split, class_names: list[str]) -> SplitMetrics:
    """Return the metrics of logits, float32 [n, classes], on a test split."""
    return SplitMetrics(**measure.accuracies(logits.argmax(1), test.labels.numpy(), class_names))


def write(folder: Path, subject: Subject, outputs: np.ndarray, metrics: SplitMetrics) -> None:
    """Write the metrics, `figures.json`, and plots of them.

    The plots are `per_class.png`, `confusion_matrix.png`, `mistakes.png`, `components.png` and, where there is a log of
    the training, `curves.png`.
    """
    title, class_names = subject.title, subject.class_names
    labels = subject.test.labels.numpy()
    worst = measure.confident_mistakes(outputs, labels, MISTAKES)
    points, shares = measure.principal_components(torch_outputs(subject.model, subject.test, features=True))
    file = subject.folder / "log.csv"
    log = epoch_log.read(file) if file.is_file() else []
    write_json(
        folder / "figures.json",
        {"model": title, **as_dict(metrics), "confident_mistakes": worst, "components_variance": shares, "log": log},
    )
    if log:
        plots.curves(log, title, folder / "curves.png")
    plots.class_accuracies({title: metrics.per_class_accuracy}, f"{title}, test split", folder / "per_class.png")
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
