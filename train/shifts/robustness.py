"""Accuracy and calibration of published models on corrupted test images."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from train import records
from train.data import loading
from train.errors import UserError
from train.files import atomic_write, sha256
from train.onnx_export import build, metadata, runtime
from train.records import CalibrationFit, CardConfig
from train.shifts.corruptions import catalog
from train.shifts.corruptions.catalog import CORRUPTIONS
from train.training import models
from train.training.results import calibration
from zoo.calibration import calibrated

FILE = "robustness.json"
# The condition of images as they are. Its logits also tell whether earlier ones are of the same network.
CLEAN = "clean"
# Of all conditions: two ways to run a network differ by rounding errors, two networks by far more.
SAME_LOGITS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracy in percent, and expected calibration error as a share."""

    accuracy: float
    ece: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The same, at each severity."""

    accuracy: list[float]
    ece: list[float]

    @property
    def mean(self) -> Score:
        """The mean of the severities."""
        return Score(accuracy=round(fmean(self.accuracy), 4), ece=round(fmean(self.ece), 6))


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """`robustness.json` of a card folder.

    Attributes:
        precision: of the ONNX file that was measured.
        test_images: how many; 1,000 are those that ship with the project.
        temperature: of the calibration whose error is stated; the next one too.
        safetensors_sha256: of the weights.
        clean: on the images as they are.
        mean: over all corruptions, each the mean of its severities.
        corruptions: by name.
    """

    precision: str
    test_images: int
    temperature: float
    curvature: float
    safetensors_sha256: str
    clean: Score
    mean: Score
    corruptions: dict[str, Scores]

    @property
    def by_severity(self) -> Scores:
        """The mean, at each severity, of the corruptions that have severities."""
        return _mean([scores for scores in self.corruptions.values() if len(scores.accuracy) > 1])


def mean_of(found: Mapping[str, Scores]) -> Score:
    """Return the mean over corruptions, each the mean of its severities."""
    means = [scores.mean for scores in found.values()]
    return Scores(accuracy=[one.accuracy for one in means], ece=[one.ece for one in means]).mean


def _mean(rows: Sequence[Scores]) -> Scores:
    """Return the mean of several corruptions, severity by severity."""
    accuracy = [round(fmean(values), 4) for values in zip(*(row.accuracy for row in rows), strict=True)]
    ece = [round(fmean(values), 6) for values in zip(*(row.ece for row in rows), strict=True)]
    return Scores(accuracy=accuracy, ece=ece)


@dataclass(frozen=True)
class Subject:
    """A model to measure: the folder of its card, its dataset, its session, and where its logits are kept."""

    card: Path
    dataset: str
    session: onnxruntime.InferenceSession
    logits: Path


def measure(
    cards: Sequence[Path], precision: str, images: int | None, data_dir: Path | None, kept: Path
) -> Iterator[tuple[Path, Robustness]]:
    """Measure published models and write each one's `robustness.json`.

    The logits of every corruption and severity are kept. A run that was stopped goes on where it was, and one whose
    models are calibrated otherwise now only computes the calibration errors again.

    Args:
        cards: folders of published models of MNIST and CIFAR-10.
        precision: "int8" or "fp32".
        images: how many test images; None for the 1,000 that ship with the project.
        data_dir: as `loading.load` takes it, where others are measured.
        kept: the folder of the logits.

    Yields:
        Each card, as soon as all models of its dataset are done, with its results.

    Raises:
        UserError: a model has no such ONNX file, or is of another dataset.
    """
    subjects = [_subject(card, precision, kept) for card in cards]
    conditions = {dataset: [(CLEAN, 0), *_corruptions(dataset)] for dataset in CORRUPTIONS}
    splits = {name: _test_images(name, images, data_dir) for name in {subject.dataset for subject in subjects}}
    total = sum(len(conditions[subject.dataset]) * len(splits[subject.dataset]) for subject in subjects)
    with tqdm(total=total, unit=" images", dynamic_ncols=True, disable=None) as bar:
        for dataset, split in splits.items():
            mine = [subject for subject in subjects if subject.dataset == dataset]
            pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
            for condition in conditions[dataset]:
                bar.set_postfix_str(" ".join(map(str, condition)).removesuffix(" 0"))
                _measure(mine, pixels, condition, bar)
            for subject in mine:
                found = _result(subject, precision, split.labels.numpy())
                records.write(found, subject.card / FILE)
                yield subject.card, found


def _subject(card: Path, precision: str, kept: Path) -> Subject:
    config = records.read(CardConfig, card / "config.json")
    if config.dataset not in CORRUPTIONS:
        raise UserError(f"{card.name}: corruptions are of {' and '.join(CORRUPTIONS)}, not of {config.dataset!r}")
    file = card / metadata.FILES[precision]
    if not file.is_file():
        raise UserError(f"{file} is not built yet: python train/export.py {card.name}")
    return Subject(card, config.dataset, runtime.session(file), kept / f"{card.resolve().name}.{precision}")


def _corruptions(dataset: str) -> Iterator[tuple[str, int]]:
    for corruption in CORRUPTIONS[dataset]:
        for severity in corruption.severities:
            yield corruption.name, severity


def _test_images(dataset: str, images: int | None, data_dir: Path | None) -> loading.Split:
    if images is None:
        return loading.load(dataset, build.SAMPLES).test
    test = loading.load(dataset, data_dir).test
    if images > len(test):
        raise UserError(f"--images {images}: {dataset} has {len(test):,} test images there")
    return test.spread(images)


def _measure(subjects: Sequence[Subject], pixels: np.ndarray, condition: tuple[str, int], bar: "tqdm[None]") -> None:
    """Compute and keep the logits of one condition, of those models that lack them."""
    name, severity = condition
    if name == CLEAN:
        for subject in subjects:
            _begin(subject, runtime.logits(subject.session, pixels), _digest(pixels))
            bar.update(len(pixels))
        return
    missing = [subject for subject in subjects if not _file(subject, condition).is_file()]
    bar.update(len(pixels) * (len(subjects) - len(missing)))
    if missing:
        corrupted = catalog.corrupt(pixels, subjects[0].dataset, name, severity)
    for subject in missing:
        _keep(_file(subject, condition), runtime.logits(subject.session, corrupted))
        bar.update(len(pixels))


def _digest(pixels: np.ndarray) -> str:
    """Return what kept logits depend on besides the network: the test images and the code of the corruptions."""
    digest = hashlib.sha256(pixels.tobytes())
    for path in sorted((models.REPOSITORY / "train" / "shifts" / "corruptions").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _begin(subject: Subject, clean: np.ndarray, digest: str) -> None:
    """Keep the logits of the images as they are; forget earlier ones if they are of another network or other images."""
    file = subject.logits / f"{CLEAN}.{digest[:16]}.npy"
    if file.is_file():
        earlier = np.load(file)
        if earlier.shape == clean.shape and np.abs(earlier - clean).max() < SAME_LOGITS:
            return
    shutil.rmtree(subject.logits, ignore_errors=True)
    subject.logits.mkdir(parents=True)
    _keep(file, clean)


def _file(subject: Subject, condition: tuple[str, int]) -> Path:
    name, severity = condition
    return subject.logits / f"{name}-{severity}.npy"


def _keep(file: Path, logits: np.ndarray) -> None:
    with atomic_write(file) as temporary:
        np.save(temporary, logits)


def _result(subject: Subject, precision: str, labels: np.ndarray) -> Robustness:
    """Compute the scores of kept logits."""
    config = records.read(CardConfig, subject.card / "config.json")

    def score(file: Path) -> Score:
        return scored(np.load(file), labels, config)

    found = {}
    for corruption in CORRUPTIONS[subject.dataset]:
        each = [score(_file(subject, (corruption.name, severity))) for severity in corruption.severities]
        found[corruption.name] = Scores(accuracy=[one.accuracy for one in each], ece=[one.ece for one in each])
    (clean,) = subject.logits.glob(f"{CLEAN}.*.npy")
    return Robustness(
        precision=precision,
        test_images=len(labels),
        temperature=config.temperature,
        curvature=config.curvature,
        safetensors_sha256=sha256(subject.card / "model.safetensors"),
        clean=score(clean),
        mean=mean_of(found),
        corruptions=found,
    )


def scored(logits: np.ndarray, labels: np.ndarray, fit: CalibrationFit) -> Score:
    """Return accuracy and expected calibration error of logits, float32 [n, classes], by a card's calibration."""
    probabilities = calibrated(torch.from_numpy(logits).float(), fit.temperature, fit.curvature).double().numpy()
    accuracy = float((logits.argmax(1) == labels).mean())
    return Score(accuracy=round(100 * accuracy, 4), ece=round(calibration.ece(probabilities, labels), 6))
