"""From a finished run to a model card folder in the Hub's layout.

The weights are stored in a compact form, loaded back as anyone will load them, calibrated on the validation split, and
measured on the test split with torch and as ONNX: the card states these metrics.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from train import records
from train.cards import calibration, checks, model_card
from train.cards.checks import Reported
from train.cards.compact import compact, for_other_readers
from train.data import loading
from train.data.reference import DataError, DataOptions, recorded, resolve
from train.files import atomic_write, read_json, why_unwritable, write_json, write_text
from train.onnx_export import build, quantize
from train.records import FittedNumbers, RunDescription, RunMetrics
from train.training import models
from train.training.results import plots
from train.training.runs import run_data

# Training images that give the principal directions of VGG16's linear layers.
PCA_IMAGES = 4000


def publish(
    run_folder: Path,
    target: Path | None,
    data_dir: Path | None,
    full_precision: bool,
    reported: Reported,
    batch_size: int | None = None,
) -> Path:
    """Make the card folder of a run and return it. An earlier card is replaced as a whole, or kept on a failure.

    Args:
        run_folder: of a finished run.
        target: the card folder to make; None for the model's place in `models.published_to()`.
        data_dir: as `data.load` takes it; None for the folder that the run read its dataset from.
        full_precision: keep the weights in float32.
        reported: the paper's test accuracy for a dataset and a model.
        batch_size: images that are measured at a time; None for as many as fit in little memory.

    Raises:
        models.ModelError: the run is not finished; or it is of recipe `paper` or on a part of one of the paper's
            datasets, and would be one of the project's models; or the target holds something other than a card; or a
            weight is too large for half precision.
        DataError: the run's dataset is not available, or has other classes or channels now.
    """
    model, run = models.load_run(run_folder)
    name = dataset_name(run.dataset)
    if target is None and run.recipe == "paper" and recorded(name).paper:
        raise models.ModelError(
            f"{run_folder} is of recipe 'paper', which is for the report: python train/report.py {run_folder}, or name "
            "the folder to publish it in by --output-dir"
        )
    target = (target or models.published_to() / f"{run.model}.{recorded(name).tag}").resolve()
    _refuse_a_part(target, run_folder, run)
    _refuse_to_replace(target, run_folder)
    channels, _, side = models.pretrained_cfg(model)["input_size"]
    data_folder = run_data.data_folder(str(run_folder), run.data_dir, data_dir)
    dataset = loading.load(run.dataset, data_folder, side, DataOptions.of(run.data_options))
    run_data.require_same_data(str(run_folder), run.class_names, channels, dataset)
    with _parents_of(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".publishing-") as temporary:
        # In a sub-folder, which has a usual folder's permissions; the temporary one is for its owner alone.
        folder = Path(temporary) / target.name
        folder.mkdir()
        _write(folder, run_folder, model, run, dataset, name, full_precision, reported, batch_size)
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


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """Make the folders that a card is to lie in; a failure of the block removes those that were not there before."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:  # Ctrl-C too
        for folder in missing:
            with suppress(OSError):  # somebody else has put a file there
                folder.rmdir()
        raise


def _refuse_a_part(target: Path, run_folder: Path, run: RunDescription) -> None:
    """Refuse a run on a part of a paper's dataset, such as `train/samples`, as one of the project's models."""
    paper = recorded(run.dataset).paper
    if paper is None or run.train_images is None or target.parent != models.REPOSITORY / "model_cards":
        return
    if run.train_images != (whole := paper.train_images - paper.validation_images):
        raise models.ModelError(
            f"{run_folder} was trained on {run.train_images:,} of the {whole:,} training images; model_cards/ and the "
            "README's table are for networks that were trained on all of them: name another folder by --output-dir"
        )


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
    batch_size: int | None,
) -> None:
    """Write the files of a card to an empty folder."""
    _store(folder, model, run, dataset, name, full_precision)
    shutil.copy(run_folder / "log.csv", folder)
    shutil.copy(run_folder / "curves.png", folder)
    for note in calibration.calibrate(folder, models.load_card(folder)[0], dataset, batch_size):
        print(f"{name}: {note}", file=sys.stderr)
    build.export(folder)
    trained = records.read(RunMetrics, run_folder / "metrics.json")
    found = checks.measured(folder, dataset, batch_size)
    settings = records.as_dict(run)
    metrics = {
        "model": run.model,
        "dataset": name,
        **records.as_dict(trained),
        **records.as_dict(found),
        **records.as_dict(records.read(FittedNumbers, folder / "config.json")),
        "trained_test_accuracy": trained.test_accuracy,
        "paper_test_accuracy": reported(name, run.model),
        **{key: settings[key] for key in ("recipe", "settings", "model_kwargs")},
        "pretrained": run.pretrained and Path(run.pretrained).name,
        **{key: settings[key] for key in ("earlier", "teacher", "overfit", "data_options")},
    }
    if recorded(name).paper:
        metrics["samples"] = records.as_dict(checks.measured(folder, loading.load(name, build.SAMPLES), batch_size))
    write_json(folder / "metrics.json", metrics)
    build.state_accuracies(folder)
    plots.confusion_matrix(
        np.array(found.confusion_matrix),
        run.class_names,
        f"{run.model}.{recorded(name).tag}, test split",
        folder / "confusion_matrix.png",
    )
    calibration.plot(folder)
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
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {folder.name}: {why_unwritable(folder) or error}") from error
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
            **({"data_options": run.data_options} if run.data_options else {}),
        },
    )
    write_json(folder / "config.json", for_other_readers(read_json(folder / "config.json"), tensors))
