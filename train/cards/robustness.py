"""What a card says of corrupted images: its plot, and whether its `robustness.json` is true."""

from collections.abc import Iterator
from pathlib import Path

from train import records
from train.data import loading
from train.files import sha256
from train.onnx_export import build, metadata, runtime
from train.records import CardConfig, CardMetrics
from train.shifts import plots, robustness
from train.shifts.corruptions import catalog
from train.shifts.robustness import FILE, Robustness, Scores

PLOT = "robustness.png"
# Of all conditions these are measured again: one of each kind of arithmetic, at a severity where it matters.
SAMPLED = {"cifar10": (("gaussian_noise", 3), ("fog", 5)), "mnist": (("rotate", 3), ("spatter", 5))}
# In points: on another processor a few of 1,000 corrupted images end up in another class.
TOLERANCE = 0.6


def read(folder: Path) -> Robustness | None:
    """Read the `robustness.json` of a card; None where it was not measured.

    Raises:
        files.FileError: it is damaged.
    """
    file = folder / FILE
    return records.read(Robustness, file) if file.is_file() else None


def plot(folder: Path) -> None:
    """Plot a card's `robustness.json` beside it."""
    found = read(folder)
    if found:
        dataset = records.read(CardConfig, folder / "config.json").dataset
        plots.of_model(found, dataset, f"{folder.name}: accuracy on corrupted test images, %", folder / PLOT)


def differences(folder: Path, metrics: CardMetrics, config: CardConfig) -> Iterator[str]:
    """Yield what a card's `robustness.json` states and what is not true; a sample of it is measured again.

    Raises:
        files.FileError: it is damaged.
    """
    if (stated := read(folder)) is None:
        return
    again = f"python train/robustness.py {folder.name}"
    if stated.safetensors_sha256 != sha256(folder / "model.safetensors"):
        yield f"{FILE} is of other weights: {again}"
        return
    if (stated.temperature, stated.curvature) != (config.temperature, config.curvature):
        yield f"{FILE} is of another calibration: {again}"
    if (expected := robustness.mean_of(stated.corruptions)) != stated.mean:
        yield f"the mean in {FILE} is {stated.mean}, that of its corruptions {expected}"
    if not (folder / PLOT).is_file():
        yield f"{PLOT} missing: {again}"
    if metrics.samples is None or stated.test_images != metrics.samples.test_images:
        return  # not of the images that ship with the project
    test = loading.load(config.dataset, build.SAMPLES).test
    pixels, labels = test.images.permute(0, 2, 3, 1).contiguous().numpy(), test.labels.numpy()
    session = runtime.session(folder / metadata.FILES[stated.precision])
    for name, severity in SAMPLED[config.dataset]:
        logits = runtime.logits(session, catalog.corrupt(pixels, config.dataset, name, severity))
        accuracy = robustness.scored(logits, labels, config).accuracy
        claim = _at(stated.corruptions.get(name), severity)
        if claim is None or not abs(accuracy - claim) <= TOLERANCE:
            yield f"{name} {severity} has an accuracy of {accuracy}, {FILE} states {claim}"
    clean = metrics.samples.onnx_test_accuracy[stated.precision]
    if not abs(clean - stated.clean.accuracy) <= TOLERANCE:
        yield f"the clean accuracy in {FILE} is {stated.clean.accuracy}, that of the card {clean}"


def _at(scores: Scores | None, severity: int) -> float | None:
    return scores.accuracy[severity - 1] if scores and len(scores.accuracy) >= severity else None
