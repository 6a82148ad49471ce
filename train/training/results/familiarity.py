"""Fit which logits a network gives for images of its classes, so that others can be told as unfamiliar.

The images that a network takes for one class have logits near each other. An image of none of the classes gets logits
that are far from those of every class, though their softmax may be certain. Everything is fitted on the validation
split; docs/robustness.md has what was compared.
"""

import numpy as np

from train.records import Familiarity

# The share of the validation images that are familiar by definition. With less, the app would be less often sure of
# drawn and photographed digits; docs/robustness.md has the comparison.
KEPT = 0.985
# Two numbers for each pair of classes are kept in the card and in each ONNX file: with more classes, too many.
MOST_CLASSES = 100
# Fitted to fewer, too many others of the same kind would be unfamiliar. Of CIFAR-10 5 % are with 200 images instead of
# 1.5, and 7 % with 100.
LEAST_IMAGES = 200
# A class's variances are mixed with those of all classes as if so many more of its images had these.
PRIOR_IMAGES = 20
DIGITS = 4


def fit(logits: np.ndarray) -> tuple[Familiarity | None, list[str]]:
    """Fit means and deviations of the logits of each class, and the distance beyond which an image is unfamiliar.

    The classes are those that the network predicts: whether it is right does not matter here.

    Args:
        logits: finite floats [n, classes], of the validation images.

    Returns:
        The fit, or None and a line that says why there is none.
    """
    images, classes = logits.shape
    predicted = logits.argmax(1)
    counts = np.bincount(predicted, minlength=classes)
    if classes > MOST_CLASSES:
        return _none(f"the network has {classes} classes, more than {MOST_CLASSES}")
    if images < LEAST_IMAGES:
        return _none(f"{images} validation images are fewer than {LEAST_IMAGES}")
    if not counts.all():
        return _none(f"no validation image is taken for class {int(counts.argmin())}")
    logits = logits.astype(np.float64)
    groups = [logits[predicted == index] for index in range(classes)]
    means = _rounded(np.stack([group.mean(0) for group in groups]))
    variances = np.stack([group.var(0) for group in groups])
    pooled = (counts[:, None] * variances).sum(0) / images
    if not pooled.all():
        return _none("logits of the same class do not differ")
    weights = counts[:, None]
    deviations = _rounded(np.sqrt((weights * variances + PRIOR_IMAGES * pooled) / (weights + PRIOR_IMAGES)))
    found = Familiarity(means=means.tolist(), deviations=deviations.tolist(), unknown_above=0.0)
    # As far from its class's mean as each image would be, had the mean been taken without it: few images pull it along.
    left_out = logits + (logits - means[predicted]) / np.maximum(weights[predicted] - 1, 1)
    limit = float(np.quantile(distances(left_out, found), KEPT))
    return Familiarity(means=found.means, deviations=found.deviations, unknown_above=float(_rounded(limit))), []


def _none(why: str) -> tuple[None, list[str]]:
    return None, [f"does not tell unfamiliar images: {why}"]


def _rounded(values: np.ndarray | float) -> np.ndarray:
    """Round to as many significant digits as make a difference."""
    rounded: np.ndarray = np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"))(values)
    return rounded


def distances(logits: np.ndarray, fitted: Familiarity) -> np.ndarray:
    """Compute how far logits are from those of the nearest class.

    It is twice the negative logarithm of a Gaussian, less a constant: squares of deviations, and a class's spread.

    Args:
        logits: floats [n, classes].
        fitted: means and deviations of each class.

    Returns:
        float64 [n].
    """
    means, deviations = np.array(fitted.means), np.array(fitted.deviations)
    found = [
        (((logits - mean) / deviation) ** 2).sum(1) + 2 * np.log(deviation).sum()
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    nearest: np.ndarray = np.min(found, axis=0)
    return nearest


def familiar(logits: np.ndarray, fitted: Familiarity | None) -> np.ndarray:
    """Tell which logits, float [n, classes], are near those of a class: bool [n]. Without a fit, all are."""
    if fitted is None:
        return np.ones(len(logits), bool)
    near: np.ndarray = distances(logits, fitted) <= fitted.unknown_above
    return near
