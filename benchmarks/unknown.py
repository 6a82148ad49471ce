"""Compare scores that tell images of none of the classes from those of the classes.

`python benchmarks/unknown.py [MODEL ...] --data-dir DATA`: for each score the area under the ROC curve (AUROC) and the
share of unknown images that are taken for known ones where 95 % of the known ones are kept (FPR at 95 % TPR), on the
sets of benchmarks/unknown_images.py. Distances of logits are fitted on every second image of the validation split. A
score is to be chosen by the other ones and the first half of each set; what is reported is of the test split and the
other half. Then what each published model abstains from, by the numbers that its card states. Logits and features are
kept in `--kept`: a second run takes seconds.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import torch
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import unknown_images

from train import records
from train.cards import evaluation
from train.data import loading
from train.data.loading import Split
from train.files import atomic_write
from train.onnx_export import metadata, runtime
from train.records import CalibrationFit, CardConfig, Familiarity
from train.training import models
from train.training.results import familiarity
from zoo.calibration import calibrated

# The shares of the validation images that a threshold keeps.
KEPT = (0.95, 0.99)
NEIGHBOURS = 10


# By half ("choose", "report"), score and set: AUROC, false positives, and the shares flagged at the thresholds of KEPT.
Results = dict[str, dict[str, dict[str, list[float]]]]
# By set, and "known": the shares that are improbable, that are unfamiliar, and that are abstained from.
Abstentions = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Found:
    """The outputs of one model for one group of images: logits and, where they are measured, features."""

    logits: np.ndarray
    features: np.ndarray | None = None

    def part(self, rows: slice) -> "Found":
        return Found(self.logits[rows], None if self.features is None else self.features[rows])


@dataclass(frozen=True)
class Gaussians:
    """The logits of the images that a model takes for each class: with deviations alone, and with all covariances.

    Covariances are those of the class to four fifths and of all classes to one.
    """

    diagonal: Familiarity
    means: np.ndarray
    precisions: np.ndarray
    determinants: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> "Gaussians":
        diagonal, notes = familiarity.fit(logits)
        if diagonal is None:
            raise SystemExit(notes[0])
        predicted, classes = logits.argmax(1), logits.shape[1]
        means = np.stack([logits[predicted == label].mean(0) for label in range(classes)])
        shared = np.cov((logits - means[predicted]).T)
        own = np.stack([np.cov(logits[predicted == label].T) for label in range(classes)])
        mixed = 0.8 * own + 0.2 * shared
        return cls(diagonal, means, np.linalg.inv(mixed), np.linalg.slogdet(mixed)[1])

    def distances(self, logits: np.ndarray) -> np.ndarray:
        found = [
            ((d := logits - mean) @ precision * d).sum(1) + determinant
            for mean, precision, determinant in zip(self.means, self.precisions, self.determinants, strict=True)
        ]
        return np.min(found, 0)


@dataclass(frozen=True)
class Fit:
    """What is fitted on images of the classes: calibration, distances of logits, and class means of features."""

    calibration: CalibrationFit
    logits: Gaussians
    means: np.ndarray | None = None
    precision: np.ndarray | None = None
    train: np.ndarray | None = None


def unit(features: np.ndarray | None) -> np.ndarray:
    assert features is not None  # scores of features are left out without them
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def confidence(logits: np.ndarray, fit: CalibrationFit) -> np.ndarray:
    """The highest probability, as the ONNX files and the server give it."""
    probabilities = calibrated(torch.from_numpy(logits).float(), fit.temperature, fit.curvature)
    return probabilities.amax(1).numpy()


def entropy(logits: np.ndarray) -> np.ndarray:
    return -(softmax(logits, 1) * log_softmax(logits, 1)).sum(1)


def mahalanobis(found: Found, fit: Fit) -> np.ndarray:
    distances = [((d := found.features - mean) @ fit.precision * d).sum(1) for mean in fit.means]
    return -np.min(distances, 0)


def nearest(found: Found, fit: Fit) -> np.ndarray:
    similar = unit(found.features) @ fit.train.T
    return np.partition(similar, -NEIGHBOURS, 1)[:, -NEIGHBOURS]


# Higher for images of the classes.
SCORES: dict[str, Callable[[Found, Fit], np.ndarray]] = {
    "probability": lambda found, _: softmax(found.logits, 1).max(1),
    "probability, calibrated": lambda found, fit: confidence(found.logits, fit.calibration),
    "entropy": lambda found, _: -entropy(found.logits),
    "entropy, temperature": lambda found, fit: -entropy(found.logits / fit.calibration.temperature),
    "logit": lambda found, _: found.logits.max(1),
    "logit above the mean": lambda found, _: found.logits.max(1) - found.logits.mean(1),
    "margin of logits": lambda found, _: -np.diff(np.sort(found.logits, 1)[:, -2:][:, ::-1], axis=1)[:, 0],
    "energy": lambda found, _: logsumexp(found.logits, 1),
    "energy, temperature": lambda found, fit: logsumexp(found.logits / fit.calibration.temperature, 1),
    "z-score of the logit": lambda found, _: (found.logits.max(1) - found.logits.mean(1)) / found.logits.std(1),
    "distance of logits": lambda found, fit: -familiarity.distances(found.logits, fit.logits.diagonal),
    "distance of logits, full": lambda found, fit: -fit.logits.distances(found.logits),
}
OF_FEATURES: dict[str, Callable[[Found, Fit], np.ndarray]] = {
    "cosine to class means": lambda found, fit: (unit(found.features) @ unit(fit.means).T).max(1),
    "Mahalanobis": mahalanobis,
    "tenth neighbour": nearest,
}


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The chance that a known image has a higher score than an unknown one."""
    ranks = rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


def false_positives(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of unknown images above the score that 95 % of the known ones have."""
    return float((unknown >= np.quantile(known, 1 - KEPT[0])).mean())


class Outputs:
    """The outputs of one published model, computed once and kept."""

    def __init__(self, name: str, precision: str, kept: Path, with_features: bool) -> None:
        self.card = models.card(name)
        self.file = self.card / metadata.FILES[precision]
        self.stated = metadata.stated(self.file)
        self.folder = kept / f"{self.card.name}.{precision}"
        self.with_features = with_features
        self._session: onnxruntime.InferenceSession | None = None
        self._model: torch.nn.Module | None = None

    def __call__(self, pixels: np.ndarray) -> Found:
        """The outputs for images, uint8 [n, H, W, C]."""
        key = hashlib.sha256(self.stated["safetensors_sha256"].encode() + pixels.tobytes()).hexdigest()[:24]
        logits = self._once(f"{key}.logits", lambda: self._logits(pixels))
        if not self.with_features:
            return Found(logits)
        return Found(logits, self._once(f"{key}.features", lambda: self._features(pixels)))

    def _once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                np.save(temporary, compute())
        return np.load(file)

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        self._session = self._session or runtime.session(self.file)
        return runtime.logits(self._session, pixels)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        self._model = self._model or models.load_card(self.card)[0]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        split = Split(images, torch.zeros(len(images), dtype=torch.int64))
        return evaluation.torch_outputs(self._model, split, features=True, batch_size=100)


def pixels(split: Split) -> np.ndarray:
    return split.images.permute(0, 2, 3, 1).contiguous().numpy()


def fit(outputs: Outputs, known: Found, dataset: loading.Dataset, train_images: int) -> Fit:
    config = records.read(CardConfig, outputs.card / "config.json")
    gaussians = Gaussians.of(known.logits.astype(float))
    if known.features is None:
        return Fit(config, gaussians)
    train = dataset.train.spread(train_images)
    features, labels = outputs(pixels(train)).features, train.labels.numpy()
    means = np.stack([features[labels == label].mean(0) for label in range(10)])
    within = np.cov((features - means[labels]).T) + 1e-6 * np.eye(features.shape[1])
    return Fit(config, gaussians, means, np.linalg.pinv(within, hermitian=True), unit(features))


def results(name: str, dataset: loading.Dataset, args: argparse.Namespace) -> Results:
    """Measure the scores of one model, on what the choice is made by and on what is reported."""
    outputs = Outputs(name, args.precision, args.kept, args.features)
    validation, test = dataset.validation.spread(args.known), dataset.test.spread(args.known)
    both = outputs(pixels(validation))
    fitted = fit(outputs, both.part(slice(0, None, 2)), dataset, args.known)
    known = {"choose": both.part(slice(1, None, 2)), "report": outputs(pixels(test))}
    groups = {group: outputs(unknown_images.make(dataset.name, group, args.unknown)) for group in sets(dataset.name)}
    found: Results = {"choose": {}, "report": {}}
    for score, function in (SCORES | (OF_FEATURES if args.features else {})).items():
        thresholds = np.quantile(function(known["choose"], fitted), [1 - share for share in KEPT])
        for half in found:
            right = function(known[half], fitted)
            row = {"known": [0.0, 0.0, *((right < threshold).mean() for threshold in thresholds)]}
            for group, both in groups.items():
                middle = len(both.logits) // 2
                part = both.part(slice(0, middle) if half == "choose" else slice(middle, None))
                wrong = function(part, fitted)
                flagged = ((wrong < threshold).mean() for threshold in thresholds)
                row[group] = [auroc(right, wrong), false_positives(right, wrong), *flagged]
            found[half][score] = row
    return found


def abstentions(name: str, dataset: loading.Dataset, args: argparse.Namespace) -> Abstentions:
    """Measure from what a published model abstains: of the test split, and of the reported half of each set."""
    outputs = Outputs(name, args.precision, args.kept, with_features=False)
    config = records.read(CardConfig, outputs.card / "config.json")
    groups = {group: outputs(unknown_images.make(dataset.name, group, args.unknown)) for group in sets(dataset.name)}
    reported = {group: found.part(slice(len(found.logits) // 2, None)) for group, found in groups.items()}
    shares = {}
    for group, found in {"known": outputs(pixels(dataset.test.spread(args.known))), **reported}.items():
        unsure = confidence(found.logits, config) < (config.abstain_below or 0)
        unfamiliar = ~familiarity.familiar(found.logits, config.familiarity)
        shares[group] = (unsure.mean(), unfamiliar.mean(), (unsure | unfamiliar).mean())
    return shares


def sets(dataset: str) -> list[str]:
    return list(unknown_images.SETS[dataset])


def mean(row: dict[str, list[float]], index: int) -> float:
    return float(np.mean([values[index] for name, values in row.items() if name != "known"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="published models of one dataset (default: all)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--precision", choices=metadata.FILES, default="int8")
    parser.add_argument(
        "--features", action="store_true", help="also scores of the pooled features, which take PyTorch"
    )
    parser.add_argument("--known", type=int, default=5000, help="images of the validation and the test split")
    parser.add_argument("--unknown", type=int, default=400, help="images of each set")
    parser.add_argument("--kept", type=Path, default=models.REPOSITORY / "runs" / "unknown")
    args = parser.parse_args()
    names = args.models or [folder.name for folder in models.cards()]
    for dataset_name in unknown_images.SETS:
        mine = [name for name in names if name.endswith(f".{dataset_name}")]
        if mine:
            dataset = loading.load(dataset_name, args.data_dir)
            report(dataset_name, {name: results(name, dataset, args) for name in mine})
            report_abstentions(dataset_name, {name: abstentions(name, dataset, args) for name in mine})


def report(dataset: str, found: dict[str, Results]) -> None:
    """Print the scores with their means over models and sets, then each one's results for each model and set."""
    scores = list(next(iter(found.values()))["choose"])
    print(f"\n{dataset}: mean of {len(found)} models and {len(sets(dataset))} sets, %; to choose / reported\n")
    print("| score | AUROC | FPR at 95 % TPR | flagged, 95 % kept | flagged, 99 % kept |\n|---|---|---|---|---|")
    for score in scores:
        cells = []
        for index in range(4):
            halves = [
                100 * np.mean([mean(one[half][score], index) for one in found.values()])
                for half in ("choose", "report")
            ]
            cells.append(" / ".join(f"{value:.1f}" for value in halves))
        print(f"| {score} | {' | '.join(cells)} |")
    for score in scores:
        print(f"\n{dataset}, {score}: AUROC / flagged where 95 % / 99 % of validation are kept, %\n")
        print(f"| model | known images | {' | '.join(sets(dataset))} |\n|{'---|' * (len(sets(dataset)) + 2)}")
        for name, one in found.items():
            row = one["report"][score]
            cells = [" / ".join(f"{100 * value:.1f}" for value in row["known"][2:])]
            for group in sets(dataset):
                area, _, *flagged = (100 * value for value in row[group])
                cells.append(" / ".join([f"{area:.1f}", *(f"{value:.0f}" for value in flagged)]))
            print(f"| {name} | {' | '.join(cells)} |")


def report_abstentions(dataset: str, found: dict[str, Abstentions]) -> None:
    """Print from what each published model abstains."""
    print(f"\n{dataset}: improbable / unfamiliar / either, which the model abstains from, %\n")
    print(f"| model | known images | {' | '.join(sets(dataset))} |\n|{'---|' * (len(sets(dataset)) + 2)}")
    for name, shares in found.items():
        cells = [" / ".join(f"{100 * share:.{1 if group == 'known' else 0}f}" for share in shares[group])
                 for group in ("known", *sets(dataset))]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
