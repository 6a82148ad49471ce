"""What the paper says of its results (section 5.3), to be held against its own tables and against other results."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from train.paper import Results

FAMILIES = {"googlenet": "GoogLeNet", "resnet18": "ResNet18", "vgg16": "VGG16"}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper's.

    Attributes:
        finding: whether it holds for results, and the figures that decide it.
        models: those that it speaks of.
        can_refute: whether results of some of them alone, where it does not hold, refute it whatever the others have.
    """

    text: str
    finding: Callable[[Results], tuple[bool, str]]
    models: tuple[str, ...]
    can_refute: Callable[[Results], bool] = lambda results: False

    def held_against(self, results: Results) -> str:
        """As in "yes: +0.68 points"; a dash where networks that could decide it are missing."""
        complete = all(model in results for model in self.models)
        if not complete and not self.can_refute(results):
            return "-"
        holds, figures = self.finding(results)
        if not complete and holds:
            return "-"
        return f"{'yes' if holds else 'no'}: {figures}"


def of(dataset: str) -> list[Claim]:
    """The claims about a dataset."""
    if dataset == "mnist":
        return [
            Claim("All improved networks are more accurate than all vanilla ones", _all_above_all, ALL, _has_both),
            Claim("The improved GoogLeNet is the best", _best("improved_googlenet"), ALL, _has("improved_googlenet")),
            Claim("ResNet improves the most", _most_improved("resnet18"), ALL),
            Claim("The hardest class is 6, on average over the models", _hardest("6"), ALL),
        ]
    return [
        Claim("The improved networks have about 85 % on average, the vanilla ones 75 %", _means(85, 75), ALL),
        Claim("The improved networks are 10 points better on average (85 for 75 %)", _gap(10, 1), ALL),
        Claim("VGG improves by around 10 points", _improves("vgg16", 10, 1), _pair("vgg16")),
        Claim("GoogLeNet improves by 2.5 points only", _improves("googlenet", 2.5, 0.25), _pair("googlenet")),
        Claim("ResNet improves the most", _most_improved("resnet18"), ALL),
        Claim("The hardest class is cat, on average over the models", _hardest("cat"), ALL),
    ]


def _pair(family: str) -> tuple[str, str]:
    return f"vanilla_{family}", f"improved_{family}"


ALL = tuple(model for family in FAMILIES for model in _pair(family))


def _has_both(results: Results) -> bool:
    return {model.partition("_")[0] for model in results} == {"vanilla", "improved"}


def _has(model: str) -> Callable[[Results], bool]:
    return lambda results: model in results


def gain(results: Results, family: str) -> float:
    """Points by which a family's improved network is more accurate than its vanilla one."""
    vanilla, improved = _pair(family)
    return results[improved].accuracy - results[vanilla].accuracy


def mean(results: Results, kind: str) -> float:
    """Mean accuracy of the "vanilla" or "improved" networks."""
    return fmean(result.accuracy for model, result in results.items() if model.startswith(kind))


def _all_above_all(results: Results) -> tuple[bool, str]:
    worst = min(result.accuracy for model, result in results.items() if model.startswith("improved"))
    best = max(result.accuracy for model, result in results.items() if model.startswith("vanilla"))
    return (
        worst > best,
        f"the least accurate improved one has {worst:.2f} %, the most accurate vanilla one {best:.2f} %",
    )


def _best(expected: str) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        top = round(max(result.accuracy for result in results.values()), 2)
        best = [model for model, result in results.items() if round(result.accuracy, 2) == top]
        return best == [expected], f"{' and '.join(f'`{model}`' for model in best)} with {top:.2f} %"

    return finding


def _most_improved(expected: str) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        gains = {family: gain(results, family) for family in FAMILIES}
        figures = ", ".join(f"{name} {gains[family]:+.2f}" for family, name in FAMILIES.items())
        return max(gains, key=gains.__getitem__) == expected, f"{figures} points"

    return finding


def _improves(family: str, points: float, tolerance: float) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        gained = gain(results, family)
        return abs(gained - points) <= tolerance, f"{gained:+.2f} points"

    return finding


def _means(improved: float, vanilla: float) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        found = mean(results, "improved"), mean(results, "vanilla")
        near = abs(found[0] - improved) <= 1 and abs(found[1] - vanilla) <= 1
        return near, f"{found[0]:.2f} % and {found[1]:.2f} %"

    return finding


def _gap(points: float, tolerance: float) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        gap = mean(results, "improved") - mean(results, "vanilla")
        return abs(gap - points) <= tolerance, f"{gap:+.2f} points"

    return finding


def _hardest(expected: str) -> Callable[[Results], tuple[bool, str]]:
    def finding(results: Results) -> tuple[bool, str]:
        means = {name: fmean(result.per_class[name] for result in results.values()) for name in _classes(results)}
        hardest = min(means, key=means.__getitem__)
        return hardest == expected, f"{hardest}, with {means[hardest]:.2f} % over {len(results)} models"

    return finding


def _classes(results: Results) -> list[str]:
    return list(next(iter(results.values())).per_class)
