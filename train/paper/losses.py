"""The paper's claims about the loss (section 5.3), checked against the epochs of its logs and against our logs.

The text of the paper reads its plots, which it shows without numbers; its logs show two epochs of each network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from train.paper import claims, paper
from zoo.catalog import NETWORKS

# The validation loss of each epoch, by model; some models may be missing.
Losses = Mapping[str, list[float]]
# Fewer epochs show no course.
COURSE = 5
# How the paper's words are read.
NEAR_ZERO = 0.1
ALMOST_EVERY = 0.8  # of the epochs
EARLY = 10  # epochs
CONVERGED = 1.1  # times the lowest loss
FALLS = 1.05  # times the lowest loss, at most, at the end


@dataclass(frozen=True)
class LossClaim:
    """A sentence of the paper about the loss.

    Attributes:
        models: those that it is about.
        holds: tells for losses of all or some of these, at least one, whether it holds, and what was found.
        of_course: it is about how the loss changes over the epochs, not about where it ends.
        by_each: it says the same of each model, so one that contradicts it refutes it.
    """

    text: str
    models: tuple[str, ...]
    holds: Callable[[Losses], tuple[bool, str]]
    of_course: bool = False
    by_each: bool = True

    def verdict(self, losses: Losses) -> str:
        """Check the claim; a dash where losses are missing that could decide it."""
        found = {
            model: losses[model]
            for model in self.models
            if losses.get(model) and (len(losses[model]) >= COURSE or not self.of_course)
        }
        complete = len(found) == len(self.models)
        if not found or not (complete or self.by_each):
            return "-"
        holds, evidence = self.holds(found)
        if holds and not complete:
            return "-"
        return f"{'yes' if holds else 'no'}: {evidence}"


def of(dataset: str) -> list[LossClaim]:
    """Return the claims about the loss on a dataset."""
    googlenet = ("vanilla_googlenet", "improved_googlenet")
    if dataset == "mnist":
        return [
            LossClaim("The loss approximates zero, whichever the network", claims.ALL, _near_zero),
            LossClaim("GoogLeNet has the lowest loss of the vanilla networks", claims.VANILLA, _lowest, by_each=False),
            LossClaim(
                "GoogLeNet is less stable than the other vanilla networks", claims.VANILLA, _unstable, True, False
            ),
            LossClaim(
                "GoogLeNet converges more slowly than the other vanilla networks", claims.VANILLA, _slow, True, False
            ),
            LossClaim(
                "The vanilla GoogLeNet's loss is lower than the improved one's", googlenet, _lower, by_each=False
            ),
        ]
    return [
        LossClaim(
            "The loss of the vanilla networks rises in almost every epoch, from before epoch 10 on",
            claims.VANILLA,
            _rises,
            of_course=True,
        ),
        LossClaim("The loss of the improved networks falls", claims.IMPROVED, _falls, of_course=True),
    ]


def in_the_papers_logs(dataset: str) -> dict[str, list[float]]:
    """Return the validation losses that the paper's logs show; with smoothed labels where it trains on these."""
    return {
        model: [paper.mean_losses(dataset, epoch)[1] for epoch in epochs]
        for model, epochs in paper.LOGS[dataset].items()
    }


def _title(model: str) -> str:
    return NETWORKS[model].title


def _near_zero(losses: Losses) -> tuple[bool, str]:
    last = {model: values[-1] for model, values in losses.items()}
    highest = max(last, key=last.__getitem__)
    return last[highest] < NEAR_ZERO, f"up to {last[highest]:.2f} at the end ({_title(highest)})"


def _lowest(losses: Losses) -> tuple[bool, str]:
    last = {model: values[-1] for model, values in losses.items()}
    return min(last, key=last.__getitem__) == "vanilla_googlenet", _each(last, 3)


def _unstable(losses: Losses) -> tuple[bool, str]:
    # The second half: at first all fall.
    changes = {
        model: fmean(abs(b - a) for a, b in pairwise(values[len(values) // 2 - 1 :]))
        for model, values in losses.items()
    }
    found = max(changes, key=changes.__getitem__) == "vanilla_googlenet"
    return found, f"mean change from epoch to epoch in the second half: {_each(changes, 4)}"


def _slow(losses: Losses) -> tuple[bool, str]:
    reached = {
        model: next(i for i, value in enumerate(values, 1) if value <= CONVERGED * min(values))
        for model, values in losses.items()
    }
    # No other one is as slow.
    found = reached["vanilla_googlenet"] > max(n for model, n in reached.items() if model != "vanilla_googlenet")
    return found, f"first epoch within a tenth of the lowest loss: {_each(reached, 0)}"


def _lower(losses: Losses) -> tuple[bool, str]:
    last = {model: values[-1] for model, values in losses.items()}
    return last["vanilla_googlenet"] < last["improved_googlenet"], _each(last, 3)


def _rises(losses: Losses) -> tuple[bool, str]:
    words, holds = [], True
    for model, values in losses.items():
        lowest = values.index(min(values))
        after = [b > a for a, b in pairwise(values[lowest:])]
        share = fmean(after) if after else 0.0
        holds &= lowest + 1 < EARLY and share >= ALMOST_EVERY
        words.append(f"{_title(model)} {lowest + 1}, {100 * share:.0f} %")
    return holds, f"epoch of the lowest loss, share of the later epochs in which it rises: {'; '.join(words)}"


def _falls(losses: Losses) -> tuple[bool, str]:
    words = [f"{_title(model)} {min(values):.2f}, {values[-1]:.2f}" for model, values in losses.items()]
    return all(values[-1] <= FALLS * min(values) for values in losses.values()), f"lowest, last: {'; '.join(words)}"


def _each(values: Mapping[str, float], digits: int) -> str:
    return ", ".join(f"{_title(model)} {value:.{digits}f}" for model, value in values.items())
