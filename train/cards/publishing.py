"""From a finished run to a model card folder in the Hub's layout.

The weights are stored in a compact form, loaded back as anyone will load them, and measured on the test split with
torch and as ONNX: the card states these metrics.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from train import records
from train.cards import checks, model_card
from train.cards.checks import Reported
from train.cards.compact import compact
from train.data import loading
from train.data.reference import DataError, recorded, resolve
from train.files import atomic_write, write_json, write_text
from train.onnx_export import build, quantize
from train.records import RunDescription, RunMetrics
from train.training import models, plots

# Training images that give the principal directions of VGG16's linear layers.
PCA_IMAGES = 4000


def publish(
    run_folder: Path, target: Path | None, data_dir: Path | None, full_precision: bool, reported: Reported
) -> Path:
    """Make the card folder of a run and return it. An earlier card is replaced as a whole, or kept on a failure.

    Args:
        run_folder: of a finished run.
        target: the card folder to make; None for the model's place in `models.MODEL_CARDS`.
        data_dir: as `data.load` takes it.
        full_precision: keep the weights in float32.
        reported: the paper's test accuracy for a dataset and a model.

    Raises:
        models.ModelError: the run is not finished; or it is of recipe `paper` and would replace published weights; or
            the target holds something other than a card; or a weight is too large for half precision.
        DataError: the run's dataset is not available, or has other classes now.
    """
    model, run = models.load_run(run_folder)
    name = dataset_name(run.dataset)
    if target is None and run.recipe == "paper" and recorded(name).paper:
        raise models.ModelError(
            f"{run_folder} is of recipe 'paper', which is for the report: python train/report.py {run_folder}, or name "
            "the folder to publish it in by --output-dir"
        )
    target = (target or models.MODEL_CARDS / f"{run.model}.{recorded(name).tag}").resolve()
    _refuse_to_replace(target, run_folder)
    dataset = loading.load(run.dataset, data_dir, models.pretrained_cfg(model)["input_size"][-1])
    if list(dataset.class_names) != run.class_names:
        raise DataError(f"{run.dataset!r} has classes {dataset.class_names}, the run had {run.class_names}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".publishing-") as temporary:
        # In a sub-folder, which has a usual folder's permissions; the temporary one is for its owner alone.
        folder = Path(temporary) / target.name
        folder.mkdir()
        _write(folder, run_folder, model, run, dataset, name, full_precision, reported)
        replaced = Path(temporary) / "replaced"
        try:
            if target.exists():
                target.replace(replaced)
            folder.replace(target)
        except BaseException:  # Ctrl-C too: the temporary folder is removed with all that is in it
            if replaced.exists() and not target.exists():
                replaced.replace(target)
            raise
    return target


def dataset_name(dataset: str) -> str:
    """Return the dataset's name for a card: of a local folder its last part, as a path means nothing elsewhere.

    Raises:
        DataError: the folder is named like one of the paper's datasets.
    """
    ref = resolve(dataset)
    name = ref.published_name
    if ref.folder and recorded(name).paper:
        raise DataError(f"the folder {dataset!r} would be taken for the dataset {name!r}: train on it by another name")
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
    run: RunDescription,
    dataset: loading.Dataset,
    name: str,
    full_precision: bool,
    reported: Reported,
) -> None:
    """Write the files of a card to an empty folder."""
    _store(folder, model, run, dataset, name, full_precision)
    shutil.copy(run_folder / "log.csv", folder)
    shutil.copy(run_folder / "curves.png", folder)
    build.export(folder)
    trained = records.read(RunMetrics, run_folder / "metrics.json")
    found = checks.measured(folder, dataset)
    settings = records.as_dict(run)
    metrics = {
        "model": run.model,
        "dataset": name,
        **records.as_dict(trained),
        **records.as_dict(found),
        "trained_test_accuracy": trained.test_accuracy,
        "paper_test_accuracy": reported(name, run.model),
        **{key: settings[key] for key in ("recipe", "settings", "model_kwargs")},
        "pretrained": run.pretrained and Path(run.pretrained).name,
        **{key: settings[key] for key in ("earlier", "teacher", "overfit")},
    }
    if recorded(name).paper:
        metrics["samples"] = records.as_dict(checks.measured(folder, loading.load(name, build.SAMPLES)))
    write_json(folder / "metrics.json", metrics)
    build.state_accuracies(folder)
    plots.confusion_matrix(
        np.array(found.confusion_matrix),
        run.class_names,
        f"{run.model}.{recorded(name).tag}, test split",
        folder / "confusion_matrix.png",
    )
    write_text(folder / "README.md", model_card.render(folder))


def _store(
    folder: Path, model: nn.Module, run: RunDescription, dataset: loading.Dataset, name: str, full_precision: bool
) -> None:
    """Write the weights in their published form, and the `config.json` that timm loads them by."""
    images = quantize.calibration_images(name, dataset.train, PCA_IMAGES)
    try:
        tensors = model.state_dict() if full_precision else compact(model, images)
    except ValueError as error:  # a weight is too large for half precision
        raise models.ModelError(str(error)) from error
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    cfg = models.pretrained_cfg(model)
    cfg["tag"] = recorded(name).tag
    cfg.pop("label_names", None)  # those of the architecture's default dataset; the run's are given below
    _, channels, height, width = dataset.test.images.shape
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config={
            "label_names": run.class_names,
            "dataset": run.dataset,  # for evaluate, export and verify: of a local folder the whole path
            "image_size": [height, width, channels],
        },
    )
