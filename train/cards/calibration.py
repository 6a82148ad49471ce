"""A card's calibration: fitted on the validation split at publishing, measured on the test split, and checked."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from train import records
from train.cards import evaluation
from train.data import loading
from train.data.reference import recorded
from train.files import read_json, write_json
from train.records import (
    CalibrationFit,
    CalibrationMetrics,
    CardConfig,
    CardMetrics,
    Familiarity,
    FilesCalibration,
    FittedNumbers,
    Published,
)
from train.training.results import calibration, plots

FIELDS = tuple(field.name for field in dataclasses.fields(FittedNumbers))

# How far another processor may be from what a card states; one image is always allowed to move. Float sums differ in
# their last bits; quantised activations can be rounded the other way in every layer.
TOLERANCE = {"fp32": 0.0005, "int8": 0.005}
# The fit moves by less than this if images move as above.
FIT_TOLERANCE = 0.01


def fitted(
    model: nn.Module, dataset: loading.Dataset, batch_size: int | None = None
) -> tuple[CalibrationFit, list[str]]:
    """Fit a model's calibration on the validation split of its dataset, and on nothing else."""
    logits = evaluation.torch_outputs(model, dataset.validation, batch_size=batch_size)
    return calibration.fit(logits, dataset.validation.labels.numpy(), recorded(dataset.name).tag)


def calibrate(folder: Path, model: nn.Module, dataset: loading.Dataset, batch_size: int | None = None) -> list[str]:
    """Fit a card's calibration and write it to its `config.json`; return a line for what could not be fitted."""
    found, notes = fitted(model, dataset, batch_size)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **records.as_dict(found)})
    return notes


def measure(logits: Mapping[str, np.ndarray], labels: np.ndarray, fit: CalibrationFit) -> FilesCalibration:
    """Measure the calibration of a card's ONNX files, by the logits of each precision."""
    found = {name: calibration.measure(logits[name], labels, fit) for name in ("fp32", "int8") if name in logits}
    return FilesCalibration(
        **vars(found["fp32"]),
        reliability=calibration.reliability(logits["fp32"], labels, fit),
        reliability_uncalibrated=calibration.reliability(logits["fp32"], labels, CalibrationFit()),
        int8=found.get("int8"),
    )


def plot(folder: Path) -> None:
    """Plot the reliability diagram of a card's `metrics.json` beside it."""
    metrics = records.read(CardMetrics, folder / "metrics.json")
    if metrics.calibration:
        plots.reliability({"": metrics.calibration}, f"{folder.name}, test split", folder / "reliability.png")


def compare(stated: Published, found: Published) -> Iterator[str]:
    """Yield where the calibration that a card states differs by more than the tolerance from that of its files."""
    if stated.calibration is None or found.calibration is None:
        return
    for precision, claims, values in (
        ("fp32", stated.calibration, found.calibration),
        ("int8", stated.calibration.int8, found.calibration.int8),
    ):
        if (claims is None) != (values is None):
            yield f"the calibration of the {precision} file is {values}, the card states {claims}"
        elif claims is not None and values is not None:
            yield from _differing(precision, claims, values, stated.test_images)


def _differing(precision: str, claims: CalibrationMetrics, values: CalibrationMetrics, images: int) -> Iterator[str]:
    tolerance = max(TOLERANCE[precision], 2 / images)
    for name in ("ece", "ece_uncalibrated", "nll", "brier", "coverage", "accuracy_covered"):
        claim, value = getattr(claims, name), getattr(values, name)
        same = value is claim if None in (value, claim) else abs(value - claim) <= tolerance  # False for a NaN
        if not same:
            yield f"calibration: {name} with {precision} is {value}, the card states {claim}"


def contradictions(folder: Path, metrics: CardMetrics, config: CardConfig) -> Iterator[str]:
    """Yield where a card's calibration contradicts itself."""
    if metrics.calibration and not (folder / "reliability.png").is_file():
        yield "reliability.png missing"
    for name in FIELDS:
        if getattr(metrics, name) != getattr(config, name):
            yield f"{name} is {getattr(config, name)} in config.json, {getattr(metrics, name)} in metrics.json"
    yield from _not_of_bins("", metrics)
    if metrics.samples:
        yield from _not_of_bins("samples.", metrics.samples)
    answers, always = metrics.calibration, metrics.abstain_below is None and config.familiarity is None
    if answers and always and (answers.coverage, answers.accuracy_covered) != (1, _share(metrics)):
        yield f"coverage is {answers.coverage} with {answers.accuracy_covered} right, though the network never abstains"


def malformed(config: CardConfig) -> Iterator[str]:
    """Yield what is wrong with the numbers of a card's familiar logits, whatever the images are."""
    if (found := config.familiarity) is None:
        return
    shape = (config.num_classes, config.num_classes)
    for name in ("means", "deviations"):
        rows = getattr(found, name)
        if {len(row) for row in rows} != {shape[1]} or len(rows) != shape[0]:
            yield f"familiarity: the {name} are not of {shape[0]} classes"
        elif not np.isfinite(rows).all() or (name == "deviations" and not np.min(rows) > 0):
            yield f"familiarity: the {name} are not all finite{' and above 0' if name == 'deviations' else ''}"
    if not np.isfinite(found.unknown_above):
        yield f"familiarity: unknown_above is {found.unknown_above}"


def _not_of_bins(prefix: str, part: Published) -> Iterator[str]:
    """Yield where a calibration error does not follow from the card's own reliability diagram."""
    if (stated := part.calibration) is None:
        return
    for key, bins in (("ece", stated.reliability), ("ece_uncalibrated", stated.reliability_uncalibrated)):
        if sum(row.images for row in bins) != part.test_images:
            yield f"the bins of {prefix}{key} are not of {part.test_images} images"
        elif not abs(getattr(stated, key) - (ece := calibration.ece_of(bins))) <= 3e-6:
            yield f"{prefix}{key} is {getattr(stated, key)} in the card, {ece:.6f} by its own bins"


def _share(metrics: Published) -> float:
    return round(metrics.onnx_test_accuracy["fp32"] / 100, 6)


def unfitted(
    config: CardConfig, model: nn.Module, dataset: loading.Dataset, batch_size: int | None = None
) -> Iterator[str]:
    """Yield where a card's calibration is not what the validation split gives."""
    found, _ = fitted(model, dataset, batch_size)
    for name in FIELDS:
        value, claim = getattr(found, name), getattr(config, name)
        if not (value == claim if None in (value, claim) else _near(value, claim)):
            yield f"{name} is {value} by the validation split, the card states {claim}"
    yield from _unfitted(config.familiarity, found.familiarity)


def _unfitted(stated: Familiarity | None, found: Familiarity | None) -> Iterator[str]:
    if stated is None or found is None:
        if stated is not found:
            yield f"familiarity is {_known(found)} by the validation split, {_known(stated)} in the card"
        return
    for name in ("means", "deviations", "unknown_above"):
        value, claim = np.array(getattr(found, name)), np.array(getattr(stated, name))
        if value.shape != claim.shape or not _near(value, claim):
            yield f"familiarity: {name} not as the validation split gives them"


def _known(found: Familiarity | None) -> str:
    return "none" if found is None else "fitted"


def _near(value: float | np.ndarray, claim: float | np.ndarray) -> bool:
    """Tell whether the fit to the same images on another processor may be so; False for a NaN."""
    return bool(np.all(np.abs(value - claim) <= FIT_TOLERANCE * np.maximum(1, np.abs(claim))))
