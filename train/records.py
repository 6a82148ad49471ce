"""The JSON files of runs and cards as dataclasses: `args.json`, `metrics.json` and `config.json`.

A file is read in one place, `read`, which says what is missing or of the wrong type in one line. Keys that this version
does not know are ignored: files of older and newer versions stay readable.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from train.files import FileError, read_json, write_json

Record = TypeVar("Record")

__all__ = [
    "Ablation", "AblationRun", "CalibrationFit", "CalibrationMetrics", "CardConfig", "CardMetrics", "Earlier",
    "Familiarity", "FilesCalibration", "FittedNumbers", "PaperRun", "Published", "ReliabilityBin", "RunDescription",
    "RunMetrics", "RunSettings", "SplitMetrics", "TeacherRecord", "as_dict", "parse", "read", "write",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """The network that a student learnt from, as it was then.

    Attributes:
        name: the published model's, or the run folder's.
        share: weight of its outputs in the loss.
        temperature: of the softmax of teacher and student.
    """

    name: str
    published: bool
    safetensors_sha256: str
    test_accuracy: float
    git_commit: str | None
    share: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What decides a run: `accelerate launch train/fit.py` with these gives it again.

    Attributes:
        settings: the recipe's fields, as `recipes.of_settings` reads them.
        pretrained: "published", or the weights that it started from; None for random ones.
        data_options: the fields of `DataOptions` that were set.
        train_images: how many it was trained on, from which its settings follow; None in runs of versions that did not
            write it.
    """

    model: str
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset: str
    recipe: str
    settings: dict[str, Any]
    seed: int
    overfit: int | None = None
    pretrained: str | None = None
    teacher: TeacherRecord | None = None
    data_options: dict[str, Any] = field(default_factory=dict)
    train_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run that produced the weights which a later one started from.

    Attributes:
        run: its settings where it was not published; a published one's are in the card of its commit.
    """

    name: str
    epochs: int
    train_seconds: float
    test_accuracy: float
    git_commit: str | None
    safetensors_sha256: str
    run: RunSettings | None = None


@dataclass(frozen=True, kw_only=True)
class RunDescription(RunSettings):
    """`args.json` of a run folder: its settings, and what it was trained on.

    Attributes:
        in_chans: None in runs of versions that did not write it.
        data_dir: the folder that the paper's datasets were read from, as an absolute path; None for the Hub. It is a
            hint for later commands, and no part of what identifies a run.
        data_sha256: of all images and labels, see `Dataset.digest`.
    """

    class_names: list[str]
    in_chans: int | None = None
    data_dir: str | None = None
    data_sha256: str | None = None
    earlier: list[Earlier] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SplitMetrics:
    """Metrics of one network on one split, in percent.

    Attributes:
        macro_f1: the mean F1 score of the classes; None, as the next one, in files of versions that did not write it.
        balanced_accuracy: the mean accuracy of the classes.
        top5_accuracy: how often the true class is among the five most probable ones; None for five classes or fewer.
        per_class_accuracy: by class name, in the order of the labels; None for a class without test images.
        confusion_matrix: images, rows by true class, columns by predicted class.
    """

    test_accuracy: float
    test_images: int
    macro_f1: float | None = None
    balanced_accuracy: float | None = None
    top5_accuracy: float | None = None
    per_class_accuracy: dict[str, float | None]
    confusion_matrix: list[list[int]]

    @property
    def tested_classes(self) -> dict[str, float]:
        """The accuracy of each class that has test images, by its name."""
        return {name: accuracy for name, accuracy in self.per_class_accuracy.items() if accuracy is not None}


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The epoch of a run with the highest validation accuracy, whose weights are in `model.best.safetensors`."""

    epoch: int
    validation_accuracy: float
    validation_loss: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class RunMetrics(SplitMetrics):
    """`metrics.json` of a run folder: accuracy on the test split, and what the training took.

    Attributes:
        best: the best epoch; None in runs of versions that did not keep it.
    """

    validation_accuracy: float
    train_accuracy: float
    parameters: int
    epochs: int
    seed: int
    train_images: int
    train_seconds: float
    images_per_second: float
    processes: int
    mixed_precision: Literal["no", "bf16", "fp16"]
    device: str
    threads: int
    device_memory_bytes: int | None
    host_memory_bytes: int
    versions: dict[str, str]
    git_commit: str | None
    resumed_at_commits: list[str | None] = field(default_factory=list)
    best: BestEpoch | None = None


@dataclass(frozen=True, kw_only=True)
class PaperRun(RunMetrics):
    """Metrics of a run of recipe `paper`, as the report keeps them in `docs/report/paper/`.

    Attributes:
        milestones: the recipe's then.
    """

    model: str
    dataset: str
    milestones: list[float]


@dataclass(frozen=True, kw_only=True)
class CalibrationMetrics:
    """How well the probabilities of an ONNX file fit what happens on a split, as shares of its images.

    Attributes:
        ece: expected calibration error, in 15 bins of equal width.
        ece_uncalibrated: that of the plain softmax of the logits.
        nll: negative log-likelihood, in nats an image.
        brier: the Brier score, summed over the classes.
        coverage: how many images the network does not abstain from.
        accuracy_covered: how many of these it classifies right; None where there is none.
    """

    ece: float
    ece_uncalibrated: float
    nll: float
    brier: float
    coverage: float
    accuracy_covered: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The images whose highest probability is in one of 15 bins: their mean of it and their accuracy, as shares."""

    images: int
    probability: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class FilesCalibration(CalibrationMetrics):
    """The calibration of the fp32 file, and that of the int8 one, with the same temperature and threshold.

    Attributes:
        reliability: of the fp32 file, by bin; those without images are left out.
        reliability_uncalibrated: likewise, with the plain softmax.
        int8: of the int8 file; None where there is none.
    """

    reliability: list[ReliabilityBin]
    reliability_uncalibrated: list[ReliabilityBin]
    int8: CalibrationMetrics | None = None


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """A run of the ablation, as the report keeps it in `docs/report/ablation/`.

    Attributes:
        variant: as `train.paper.ablation.Variant.name`.
        model: the network that was built, with `model_kwargs`.
        settings: the recipe's fields.
        calibration: of its logits, fitted on the validation split; None where the run left none.
    """

    variant: str
    seed: int
    model: str
    model_kwargs: dict[str, Any]
    settings: dict[str, Any]
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    train_images: int
    test_images: int
    train_seconds: float
    device: str
    threads: int
    mixed_precision: str
    git_commit: str | None
    calibration: FilesCalibration | None = None


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A file of `docs/report/ablation/`: what is done of one network's ablation on one dataset.

    Attributes:
        model: the improved network.
    """

    model: str
    dataset: str
    epochs: int
    runs: list[AblationRun] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Published(SplitMetrics):
    """Metrics of stored weights and of the ONNX files built from them.

    Attributes:
        onnx_test_accuracy: by precision, "fp32" and "int8", or "fp32" alone where int8 would lose too much.
        calibration: of the ONNX files; None in cards of versions that did not calibrate.
    """

    onnx_test_accuracy: dict[str, float]
    safetensors_sha256: str
    parameters: int
    calibration: FilesCalibration | None = None


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """The logits that a network gives for images of its classes, fitted on the validation split.

    Attributes:
        means: [classes, classes]: row c has the mean logits of the images that the network takes for class c.
        deviations: of the same shape, above 0: their standard deviations.
        unknown_above: the distance to the nearest class above which an image is of none of them, see
            `train.training.results.familiarity`.
    """

    means: list[list[float]]
    deviations: list[list[float]]
    unknown_above: float


@dataclass(frozen=True, kw_only=True)
class FittedNumbers:
    """What calibrates a network, fitted on the validation split. The defaults are those of cards that have none.

    Attributes:
        temperature: divides the logits.
        curvature: stretches the gaps between them, see `zoo.calibration`.
        abstain_below: a calibrated probability; the network does not answer where its highest one is lower. None if no
            probability is too low.
        abstain_target: the share of its answers that are right, as the validation split shows; None as above.
    """

    temperature: float = 1.0
    curvature: float = 0.0
    abstain_below: float | None = None
    abstain_target: float | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationFit(FittedNumbers):
    """All that is fitted on the validation split.

    Attributes:
        familiarity: which logits are those of an image of the classes; the network does not answer for others. None if
            all are, as in cards of versions that did not fit it.
    """

    familiarity: Familiarity | None = None


@dataclass(frozen=True, kw_only=True)
class CardMetrics(RunMetrics, Published, RunSettings, FittedNumbers):
    """`metrics.json` of a card folder.

    Attributes:
        trained_test_accuracy: before the weights were stored in their published form.
        paper_test_accuracy: the mean of the paper's per-class table; None for what the paper does not report.
        earlier: the runs that the training started from, the oldest first.
        samples: the same metrics on the test images that ship with the project; None for other datasets.
    """

    trained_test_accuracy: float
    paper_test_accuracy: float | None
    earlier: list[Earlier] = field(default_factory=list)
    samples: Published | None = None


@dataclass(frozen=True, kw_only=True)
class CardConfig(CalibrationFit):
    """`config.json` of a card folder: timm's fields, and those of this project.

    Attributes:
        label_names: the class names, in the order of the labels.
        dataset: as `--dataset` takes it.
        image_size: of the dataset's own images, (height, width, channels) in pixels.
        data_options: the fields of `DataOptions` that were set.
    """

    architecture: str
    num_classes: int
    num_features: int
    label_names: list[str]
    dataset: str
    image_size: tuple[int, int, int]
    pretrained_cfg: dict[str, Any]
    model_args: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)


def parse(kind: type[Record], values: dict[str, Any], source: Path) -> Record:
    """Build a record from the values of a JSON file.

    Args:
        kind: one of this module's dataclasses.
        values: what the file holds; unknown keys are ignored.
        source: the file, for the error.

    Raises:
        FileError: a key is missing or has a value of the wrong type.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise FileError(f"{source} has no {key!r}") from None
        raise FileError(f"{source} is damaged: {key} is {first['input']!r:.80}: {first['msg']}") from None


def read(kind: type[Record], file: Path) -> Record:
    """Read a JSON file as a record.

    Raises:
        FileError: the file is missing or damaged, or a key is missing or has a value of the wrong type.
    """
    return parse(kind, read_json(file), file)


def as_dict(record: Any) -> dict[str, Any]:
    """Convert a record to what its JSON file holds. `Earlier.run` is left out where it is None."""

    def known(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in items if (key, value) != ("run", None)}

    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record, dict_factory=known)))
    return found


def write(record: Any, file: Path) -> None:
    """Write a record as JSON, atomically."""
    write_json(file, as_dict(record))
