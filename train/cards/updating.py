"""Calibrate and measure a published model again, after a change of the export or of the calibration."""

from pathlib import Path

from train import records
from train.cards import calibration, checks, evaluation, model_card
from train.data import loading
from train.data.reference import DataOptions
from train.files import read_json, write_json, write_text
from train.onnx_export import build, metadata, runtime
from train.records import CalibrationFit, CardConfig, CardMetrics, FittedNumbers
from train.training import models
from train.training.runs import run_data


def update(folder: Path, data_dir: Path | None) -> None:
    """Calibrate a card again, rebuild its ONNX files where they are out of date, and write what these have.

    The metrics of the weights stay as they are.

    Raises:
        models.ModelError, data.DataError: the model or its data is not available.
    """
    if missing := checks.missing_files(folder):
        raise models.ModelError(missing)
    model, _ = models.load_card(folder)
    config = records.read(CardConfig, folder / "config.json")
    dataset = loading.load(config.dataset, data_dir, config.image_size[0], DataOptions.of(config.data_options))
    run_data.require_same_data(folder.name, config.label_names, config.image_size[2], dataset)
    calibration.calibrate(folder, model, dataset)
    if metadata.outdated(folder):
        build.export(folder)
    fit = records.read(CalibrationFit, folder / "config.json")
    file = folder / "metrics.json"
    metrics = records.read(CardMetrics, file)
    # With keys that this version does not know: only what is written here changes.
    contents = {**read_json(file), **records.as_dict(records.read(FittedNumbers, folder / "config.json"))}
    for stated, dataset in checks.to_measure(folder, metrics, config, data_dir, samples=False):
        part = contents if stated is metrics else contents["samples"]
        logits = {
            precision: runtime.predict(folder / name, dataset.test.images)
            for precision, name in checks.onnx_files(folder).items()
        }
        part["onnx_test_accuracy"] = {
            precision: evaluation.accuracies(scores, dataset.test, list(dataset.class_names)).test_accuracy
            for precision, scores in logits.items()
        }
        part["calibration"] = records.as_dict(calibration.measure(logits, dataset.test.labels.numpy(), fit))
    write_json(file, contents)
    build.state_accuracies(folder)
    calibration.plot(folder)
    write_text(folder / "README.md", model_card.render(folder))
