"""Test metrics of a published model or a run, and the plots of them."""

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
from train.speed import convolution
from train.training import epoch_log, measure, models, plots
from train.training.predict import predict as predict_split

RUNTIMES = ("torch", "onnx", "onnx-int8")


MISTAKES = 24


class Features(nn.Module):
    """A timm model without its classifier: images -> what the classifier is given, [batch, features]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)


@dataclass(frozen=True)
class Subject(models.Trained):
    """What is evaluated, and on what: the test split of its dataset."""

    test: loading.Split


def load(name: str, data_dir: Path | None) -> Subject:
    """A published model, by name or folder, or a run folder.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    trained = models.load(name)
    size = models.pretrained_cfg(trained.model)["input_size"][-1]
    test = loading.load(trained.dataset, data_dir, size).test
    return Subject(**vars(trained), test=test)


def logits(subject: Subject, runtime: str) -> np.ndarray:
    """Logits float32 [n, classes] on the test split, by torch or by the ONNX file that `train/export.py` built.

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
    """Logits or features float32 [n, ...], in full precision, on the GPU where there is one."""
    accelerator = Accelerator(mixed_precision="no")
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    network = (Features(model) if features else model).to(accelerator.device)
    with convolution.faster(network):
        return predict_split(network, split.to(accelerator.device), preprocess, accelerator).cpu().numpy()


def write(folder: Path, subject: Subject, outputs: np.ndarray, figures: dict[str, Any]) -> None:
    """Write `figures.json`, `per_class.png`, `confusion_matrix.png`, `mistakes.png`, `components.png` and, where there
    is a log of the training, `curves.png`.
    """
    title, class_names = subject.title, subject.class_names
    labels = subject.test.labels.numpy()
    worst = measure.confident_mistakes(outputs, labels, MISTAKES)
    points, shares = measure.principal_components(torch_outputs(subject.model, subject.test, features=True))
    file = subject.folder / "log.csv"
    log = epoch_log.read(file) if file.is_file() else []
    write_json(
        folder / "figures.json",
        {"model": title, **figures, "confident_mistakes": worst, "components_variance": shares, "log": log},
    )
    if log:
        plots.curves(log, title, folder / "curves.png")
    plots.class_accuracies({title: figures["per_class_accuracy"]}, f"{title}, test split", folder / "per_class.png")
    confusion = np.array(figures["confusion_matrix"])
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
