"""The paper's claims about its results (section 5.3), checked against its own tables and against other results."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from train.paper.paper import Results
from zoo.catalog import DATASETS

FAMILIES = {"googlenet": "GoogLeNet", "resnet18": "ResNet18", "vgg16": "VGG16"}

# Test images of either dataset: they decide the standard error of an accuracy.
IMAGES = sum(DATASETS["cifar10"].test_images)
# A verdict is within noise where it would change within this many standard errors.
STANDARD_ERRORS = 2


@dataclass(frozen=True)
class Finding:
    """The outcome of checking a claim against results.

    Attributes:
        margin: points by which the claim holds, below zero where it does not; at zero `holds` decides.
        variance: of the margin, in square points, if each network were measured on independent test images.
        evidence: the accuracies that decide the claim, in words.
    """

    holds: bool
    margin: float
    variance: float
    evidence: str

    def __str__(self) -> str:
        """As in "yes: +0.68 points", or "yes, within noise: ..."."""
        within_noise = abs(self.margin) < STANDARD_ERRORS * math.sqrt(self.variance) or not self.margin
        return f"{'yes' if self.holds else 'no'}{', within noise' if within_noise else ''}: {self.evidence}"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper.

    Attributes:
        models: those that it is about.
        can_refute: tells whether results of only some of them refute the claim where it does not hold for these,
            whatever the others have.
    """

    text: str
    finding: Callable[[Results], Finding]
    models: tuple[str, ...]
    can_refute: Callable[[Results], bool] = lambda _: False

    def verdict(self, results: Results) -> str:
        """Check the claim against results; a dash where networks are missing that could decide it."""
        complete = all(model in results for model in self.models)
        if not complete and not self.can_refute(results):
            return "-"
        finding = self.finding(results)
        return "-" if not complete and finding.holds else str(finding)


def of(dataset: str) -> list[Claim]:
    """Return the claims about a dataset."""
    if dataset == "mnist":
        return [
            Claim("All improved networks are more accurate than all vanilla ones", _all_above_all, ALL, _has_both),
            Claim(
                'The improved GoogLeNet is the best, by so little that one "cannot say"',
                _best("improved_googlenet"),
                ALL,
                _has("improved_googlenet"),
            ),
            Claim("ResNet improves the most", _most_improved("resnet18"), ALL),
            Claim("The hardest class is 6, on average over the models", _hardest("6"), ALL),
        ]
    return [
        Claim("The improved networks have about 85 % on average", _mean_is(IMPROVED, 85, 1), IMPROVED),
        Claim("The vanilla networks have about 75 % on average", _mean_is(VANILLA, 75, 1), VANILLA),
        Claim("The improved networks are 10 points better on average (85 against 75 %)", _gap(10, 1), ALL),
        Claim("VGG improves by around 10 points", _improves("vgg16", 10, 1), _pair("vgg16")),
        Claim("GoogLeNet improves by 2.5 points only", _improves("googlenet", 2.5, 0.25), _pair("googlenet")),
        Claim("ResNet improves the most", _most_improved("resnet18"), ALL),
        Claim("The hardest class is cat, on average over the models", _hardest("cat"), ALL),
    ]


def _pair(family: str) -> tuple[str, str]:
    return f"vanilla_{family}", f"improved_{family}"


VANILLA, IMPROVED = zip(*map(_pair, FAMILIES), strict=True)
ALL = VANILLA + IMPROVED


def _has_both(results: Results) -> bool:
    return {model.partition("_")[0] for model in results} == {"vanilla", "improved"}


def _has(model: str) -> Callable[[Results], bool]:
    return lambda results: model in results


def _variance(accuracy: float, images: float = IMAGES) -> float:
    """Return the variance of an accuracy in percent, in square points."""
    return accuracy * (100 - accuracy) / images


def _gain(results: Results, family: str) -> tuple[float, float]:
    """Return by how many points a family's improved network beats its vanilla one, and the variance of that."""
    vanilla, improved = (results[model].accuracy for model in _pair(family))
    return improved - vanilla, _variance(improved) + _variance(vanilla)


def _mean(results: Results, models: tuple[str, ...]) -> tuple[float, float]:
    """Return the mean accuracy of networks, and its variance."""
    accuracies = [results[model].accuracy for model in models]
    return fmean(accuracies), sum(map(_variance, accuracies)) / len(accuracies) ** 2


def _near(found: float, variance: float, stated: float, tolerance: float, evidence: str) -> Finding:
    margin = tolerance - abs(found - stated)
    return Finding(margin >= 0, margin, variance, evidence)


def _all_above_all(results: Results) -> Finding:
    worst = min(result.accuracy for model, result in results.items() if model in IMPROVED)
    best = max(result.accuracy for model, result in results.items() if model in VANILLA)
    return Finding(
        worst > best,
        worst - best,
        _variance(worst) + _variance(best),
        f"the least accurate improved one has {worst:.2f} %, the most accurate vanilla one {best:.2f} %",
    )


def _best(expected: str) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        rounded = {model: round(result.accuracy, 2) for model, result in results.items()}
        top = max(rounded.values())
        best = [model for model, accuracy in rounded.items() if accuracy == top]
        own = rounded.pop(expected)
        other = max(rounded.values(), default=0.0)
        evidence = f"{' and '.join(f'`{model}`' for model in best)} with {top:.2f} %"
        return Finding(own > other, own - other, _variance(own) + _variance(other), evidence)

    return finding


def _most_improved(expected: str) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        gains = {family: _gain(results, family) for family in FAMILIES}
        evidence = ", ".join(f"{name} {gains[family][0]:+.2f}" for family, name in FAMILIES.items())
        own, variance = gains.pop(expected)
        other, others_variance = max(gains.values())
        return Finding(own > other, own - other, variance + others_variance, f"{evidence} points")

    return finding


def _improves(family: str, points: float, tolerance: float) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        gained, variance = _gain(results, family)
        return _near(gained, variance, points, tolerance, f"{gained:+.2f} points")

    return finding


def _mean_is(models: tuple[str, ...], percent: float, tolerance: float) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        found, variance = _mean(results, models)
        return _near(found, variance, percent, tolerance, f"{found:.2f} %")

    return finding


def _gap(points: float, tolerance: float) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        (improved, variance), (vanilla, others_variance) = _mean(results, IMPROVED), _mean(results, VANILLA)
        gap = improved - vanilla
        return _near(gap, variance + others_variance, points, tolerance, f"{gap:+.2f} points")

    return finding


def _hardest(expected: str) -> Callable[[Results], Finding]:
    def finding(results: Results) -> Finding:
        classes = next(iter(results.values())).per_class
        means = {name: fmean(result.per_class[name] for result in results.values()) for name in classes}
        hardest = min(means, key=means.__getitem__)
        evidence = f"{hardest}, with {means[hardest]:.2f} % over {len(results)} models"
        own = means.pop(expected)
        other = min(means.values())
        # All models are tested on the same images, so their mean is no more certain than one of them.
        images = IMAGES / len(classes)
        return Finding(own < other, other - own, _variance(own, images) + _variance(other, images), evidence)

    return finding
