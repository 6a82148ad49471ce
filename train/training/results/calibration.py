"""Fit what makes a network's probabilities true, and from which images it abstains; measure both.

Everything is fitted on the validation split. docs/recipe.md has what was compared.
"""

import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import betaincinv  # scipy.stats takes half a second to import
from torch import Tensor

from train.records import CalibrationFit, CalibrationMetrics, ReliabilityBin
from train.training.results import familiarity
from zoo.calibration import Calibration, calibrated

BINS = 15
# Beyond these a network's logits carry next to no information about how sure it is.
TEMPERATURES, CURVATURES = (0.05, 20.0), (0.0, 8.0)
# Smaller ones change nothing but rounding errors.
LEAST_CURVATURE = 0.05

# The share of answers that are to be right: the first of these that the validation split can show is promised.
TARGETS = (0.99, 0.98, 0.95, 0.9)
STRICTER = {"mnist": 0.999}
# The chance that a promise which was chosen so holds on other images of the same kind.
CONFIDENCE = 0.9
# A network that abstains more often is of no use: a lower promise is better.
LEAST_COVERAGE = 0.5


def fit(logits: np.ndarray, labels: np.ndarray, dataset: str) -> tuple[CalibrationFit, list[str]]:
    """Fit temperature, curvature, threshold and familiar logits on the validation split.

    Args:
        logits: float [n, classes], of the validation images.
        labels: int64 [n].
        dataset: its name; MNIST has a stricter target.

    Returns:
        The fit, and a line for everything that could not be fitted.
    """
    if not np.isfinite(logits).all():
        return CalibrationFit(), ["not calibrated: some logits of validation images are not finite"]
    found, notes = _calibration(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    probabilities = calibrated(torch.from_numpy(logits).float(), *found).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    targets = (*((STRICTER[dataset],) if dataset in STRICTER else ()), *TARGETS)
    threshold, target = _threshold(confidence, right, targets)
    if threshold is None:
        notes.append(
            f"answers at any probability: {len(labels):,} validation images, {len(labels) - right.sum():,} of them "
            f"wrong, cannot show that {100 * TARGETS[-1]:g} % of its answers are right"
        )
    near, why_not = familiarity.fit(logits)
    fitted = CalibrationFit(**found._asdict(), abstain_below=threshold, abstain_target=target, familiarity=near)
    return fitted, notes + why_not


def _calibration(logits: Tensor, labels: Tensor) -> tuple[Calibration, list[str]]:
    """Minimise the negative log-likelihood of temperature and curvature.

    The labels are smoothed by one image, as Platt (1999) does it: of n + 2 images with these logits, n + 1 have the
    label. Without it the fit to a few images that are all right has no end: it would call the network certain.
    """
    images, classes = logits.shape
    doubt = 1 / (images + 2)
    targets = torch.full_like(logits, doubt / (classes - 1))
    targets[torch.arange(images), labels] = 1 - doubt

    def loss(numbers: np.ndarray) -> float:
        found = Calibration(math.exp(numbers[0]), numbers[1] if numbers[1] >= LEAST_CURVATURE else 0.0)
        logarithms = calibrated(logits, *found).clamp(min=1e-300).log()
        return -float((targets * logarithms).sum(1).mean())

    # Without derivatives: at the bounds they do not exist. It takes some 70 steps.
    start = [[-0.3, 1.5], [0.3, 1.5], [-0.3, 3.0]]
    bounds = [tuple(map(math.log, TEMPERATURES)), CURVATURES]
    options = {"initial_simplex": start, "xatol": 1e-5, "fatol": 1e-10, "maxiter": 1000}
    logarithm, curvature = minimize(loss, start[0], method="Nelder-Mead", bounds=bounds, options=options).x
    found = Calibration(
        round(math.exp(logarithm), 4), round(float(curvature), 3) if curvature >= LEAST_CURVATURE else 0.0
    )
    notes = []
    if not 1.01 * TEMPERATURES[0] < found.temperature < 0.99 * TEMPERATURES[1]:
        notes.append(
            f"the temperature ended at its bound, {found.temperature:g}: the logits do not tell right from wrong"
        )
    return found, notes


def _threshold(
    confidence: np.ndarray, right: np.ndarray, targets: tuple[float, ...]
) -> tuple[float | None, float | None]:
    """Choose the lowest probability at which the answers are right as often as the first possible target says.

    An upper bound for their share of errors decides (Clopper and Pearson, one-sided): so few images or a lucky choice
    do not promise too much.

    Args:
        confidence: float32 [n], the highest probability of each image.
        right: bool [n].
        targets: shares of answers that are right, the strictest first.

    Returns:
        The threshold and its target; None and None where there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    wrong = (~right[order]).cumsum()
    sure = betaincinv(wrong + 1, np.maximum(answered - wrong, 1e-9), CONFIDENCE)
    lasts = np.append(confidence[order][1:] != confidence[order][:-1], True)  # a threshold takes all of the same
    for target in targets:
        possible = np.flatnonzero((sure <= 1 - target) & lasts & (answered >= LEAST_COVERAGE * len(order)))
        if len(possible):
            # Rounded down, so that it takes the image that it was chosen by.
            return math.floor(1e5 * float(confidence[order][possible[-1]])) / 1e5, target
    return None, None


def measure(logits: np.ndarray, labels: np.ndarray, fitted: CalibrationFit) -> CalibrationMetrics:
    """Measure calibration and abstention on a split.

    Args:
        logits: float32 [n, classes].
        labels: int64 [n].
        fitted: on the validation split.
    """
    tensor = torch.from_numpy(logits).float()
    probabilities = calibrated(tensor, fitted.temperature, fitted.curvature).double().numpy()
    rows = np.arange(len(labels))
    right = probabilities.argmax(1) == labels
    answered = familiarity.familiar(logits, fitted.familiarity)
    if fitted.abstain_below is not None:
        answered &= probabilities.max(1).astype(np.float32) >= np.float32(fitted.abstain_below)
    squares = (probabilities**2).sum(1) - 2 * probabilities[rows, labels] + 1
    return CalibrationMetrics(
        ece=_rounded(ece(probabilities, labels)),
        ece_uncalibrated=_rounded(ece(tensor.softmax(1).double().numpy(), labels)),
        nll=_rounded(-np.log(probabilities[rows, labels].clip(min=1e-30)).mean()),
        brier=_rounded(squares.mean()),
        coverage=_rounded(answered.mean()),
        accuracy_covered=_rounded(right[answered].mean()) if answered.any() else None,
    )


def _rounded(value: float) -> float:
    return round(float(value), 6)


def reliability(logits: np.ndarray, labels: np.ndarray, fitted: CalibrationFit) -> list[ReliabilityBin]:
    """Compute a reliability diagram: the images of each bin of the highest probability, their mean of it, the accuracy.

    Args:
        logits: float32 [n, classes].
        labels: int64 [n].
        fitted: what calibrates them.
    """
    probabilities = calibrated(torch.from_numpy(logits).float(), fitted.temperature, fitted.curvature).double().numpy()
    return [
        ReliabilityBin(images=int(images), probability=_rounded(probability), accuracy=_rounded(accuracy))
        for images, probability, accuracy in _bins(probabilities, labels)
        if images
    ]


def _bins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images and take the means of highest probability and accuracy in each bin: float [15, 3]; NaN if empty."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    # Bins are open below and closed above, as in Guo et al. (2017).
    bins = (np.ceil(confidence * BINS) - 1).clip(0, BINS - 1).astype(int)
    images = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, values, BINS) / images for values in (confidence, right)]
    return np.stack([images, *means], axis=1)


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute the expected calibration error, as a share: the bins' mean difference of probability and accuracy."""
    images, confidence, accuracy = _bins(probabilities, labels).T
    return float(np.nansum(images * np.abs(confidence - accuracy)) / len(labels))


def ece_of(bins: list[ReliabilityBin]) -> float:
    """Compute the expected calibration error from the bins of a reliability diagram."""
    gaps = (row.images * abs(row.probability - row.accuracy) for row in bins)
    return sum(gaps) / max(1, sum(row.images for row in bins))
