"""From a finished run to a model card folder in the Hub's layout.

The weights are stored in a compact form, read back as anyone will read them, and measured on the test split, with torch
and as ONNX: those are the metrics that the card states.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from train import records
from train.cards import card, checks
from train.cards.checks import Reported
from train.cards.compact import compact
from train.data import loading
from train.files import read_json, replacing, write_json, write_text
from train.onnx_export import build, quantize
from train.training import models, plots
from zoo.catalog import DATASETS

# Training images that the principal directions of VGG16's linear layers are computed from.
PCA_IMAGES = 4000


def publish(
    run_folder: Path, target: Path | None, data_dir: Path | None, full_precision: bool, reported: Reported
) -> Path:
    """Make the card folder of a run and return it; an earlier one is replaced whole, or left as it is on a failure.

    Args:
        reported: the paper's test accuracy of a dataset and a model.

    Raises:
        models.ModelError: the run is not finished, or of recipe `paper` and would take the place of published weights,
            or the target holds something else than a card, or a weight is too large for the precision that it is to be
            kept in.
        data.DataError: the run's dataset cannot be had, or has other classes now.
    """
    model, description = models.load_run(run_folder)
    run = records.as_dict(description)
    name = dataset_name(run["dataset"])
    if target is None and run["recipe"] == "paper" and name in DATASETS:
        raise models.ModelError(
            f"{run_folder} is of recipe 'paper', which is for the report: python train/report.py {run_folder}, or name "
            "the folder to publish it in by --output-dir"
        )
    target = (target or models.MODEL_CARDS / f"{run['model']}.{loading.tag(name)}").resolve()
    _refuse_to_replace(target, run_folder)
    dataset = loading.load(run["dataset"], data_dir, models.pretrained_cfg(model)["input_size"][-1])
    if list(dataset.class_names) != run["class_names"]:
        raise loading.DataError(
            f"{run['dataset']!r} has classes {dataset.class_names}, the run had {run['class_names']}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".publishing-") as temporary:
        # One folder deep: the folder that takes the target's place has a usual folder's permissions.
        folder = Path(temporary) / target.name
        folder.mkdir()
        _write(folder, run_folder, model, run, dataset, name, full_precision, reported)
        replaced = Path(temporary) / "replaced"
        try:
            if target.exists():
                os.replace(target, replaced)
            os.replace(folder, target)
        except BaseException:  # Ctrl-C too: what is still in the temporary folder is lost with it
            if replaced.exists() and not target.exists():
                os.replace(replaced, target)
            raise
    return target


def dataset_name(dataset: str) -> str:
    """What a card calls a run's dataset: a local folder by its name, as its path tells nothing elsewhere.

    Raises:
        data.DataError: the folder is named like one of the paper's datasets.
    """
    if dataset in DATASETS or not Path(dataset).is_dir():
        return dataset
    name = Path(dataset).absolute().name
    if name in DATASETS:
        raise loading.DataError(
            f"the folder {dataset!r} would pass for the dataset {name!r}: train on it by another name"
        )
    return name


def _refuse_to_replace(target: Path, run_folder: Path) -> None:
    if target == run_folder.resolve():
        raise models.ModelError(f"{target} is the run itself: choose another --output-dir")
    if target.exists() and not models.is_card(target) and not (target.is_dir() and not any(target.iterdir())):
        raise models.ModelError(f"{target} is not empty and holds no card: choose another --output-dir")


def _write(
    folder: Path,
    run_folder: Path,
    model: nn.Module,
    run: dict[str, Any],
    dataset: loading.Dataset,
    name: str,
    full_precision: bool,
    reported: Reported,
) -> None:
    tag = loading.tag(name)
    images = quantize.calibration_images(name, dataset.train, PCA_IMAGES)
    try:
        tensors = model.state_dict() if full_precision else compact(model, images)
    except ValueError as error:  # a weight too large for it
        raise models.ModelError(str(error)) from error
    with replacing(folder / "model.safetensors") as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    _, channels, height, width = dataset.test.images.shape
    cfg = models.pretrained_cfg(model)
    cfg["tag"] = tag
    cfg.pop("label_names", None)  # of the dataset that the architecture has by default; the run's are given below
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config={
            "label_names": run["class_names"],
            "dataset": run["dataset"],  # where evaluate, export and verify find it again: of a local folder, its path
            "image_size": [height, width, channels],
        },
    )
    shutil.copy(run_folder / "log.csv", folder)
    shutil.copy(run_folder / "curves.png", folder)

    trained = read_json(run_folder / "metrics.json")
    build.export(folder)
    metrics = {
        "model": run["model"],
        "dataset": name,
        **trained,
        **checks.figures(folder, dataset),
        "trained_test_accuracy": trained["test_accuracy"],
        "paper_test_accuracy": reported(name, run["model"]),
        "recipe": run["recipe"],
        "settings": run["settings"],
        "model_kwargs": run["model_kwargs"],
        "pretrained": run["pretrained"] and Path(run["pretrained"]).name,
        "earlier": run.get("earlier", []),
        "teacher": run.get("teacher"),
        "overfit": run["overfit"],
    }
    if name in DATASETS:
        metrics["samples"] = checks.figures(folder, loading.load(name, build.SAMPLES))
    write_json(folder / "metrics.json", metrics)
    build.state_accuracies(folder)
    plots.confusion_matrix(
        np.array(metrics["confusion_matrix"]),
        run["class_names"],
        f"{run['model']}.{tag}, test split",
        folder / "confusion_matrix.png",
    )
    write_text(folder / "README.md", card.render(folder))
