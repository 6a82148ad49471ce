"""The ablation in REPORT.md: a table, what follows from it in words, and a waterfall plot."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from train.cards.rendering import listed
from train.paper import ablation
from train.paper.section4 import IMPROVED, VANILLA
from train.records import Ablation
from train.training import recipes
from train.training.results import plots
from zoo.catalog import DATASETS, NETWORKS


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of a variant, in percent.

    Attributes:
        mean: over the seeds.
        spread: standard deviation over the seeds; None with fewer than two.
        images: that were tested, over all seeds.
    """

    mean: float
    spread: float | None
    images: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")

    @property
    def variance(self) -> float:
        """The variance of the mean, in squared points, that the number of test images alone gives."""
        return self.mean * (100 - self.mean) / self.images


def section(results: Ablation) -> dict[str, object]:
    """Return the values of a network's section."""
    runs = results.runs
    accuracies = _accuracies(results)
    return {
        "title": f"{NETWORKS[results.model].title}, {DATASETS[results.dataset].title}",
        "plot": _plot_name(results),
        "epochs": results.epochs,
        "usual_epochs": recipes.get("paper", results.model, results.dataset).epochs,
        "seeds": listed(str(seed) for seed in sorted({run.seed for run in runs})),
        "several_seeds": len({run.seed for run in runs}) > 1,
        "hardware": listed(sorted({f"{run.device}, {run.mixed_precision}" for run in runs})),
        "done": len(accuracies),
        "every": len(ablation.variants(results.model, results.dataset)),
        "table": table(results),
        "findings": findings(results),
    }


def _accuracies(results: Ablation) -> dict[str, Accuracy]:
    """Return the accuracy of each variant that is done."""
    found = {}
    for name in dict.fromkeys(run.variant for run in results.runs):
        runs = [run for run in results.runs if run.variant == name]
        values = [run.test_accuracy for run in runs]
        spread = stdev(values) if len(values) > 1 else None
        found[name] = Accuracy(fmean(values), spread, sum(run.test_images for run in runs))
    return found


def table(results: Ablation) -> list[list[str]]:
    """Return the test accuracy with each change added to the vanilla network, and left out of the improved one."""
    found = _accuracies(results)

    def row(head: str, added: str, left_out: str) -> list[str]:
        cells = [head]
        for name, base in ((added, VANILLA), (left_out, IMPROVED)):
            accuracy = found.get(name)
            cells.append(str(accuracy or "-"))
            known = accuracy is not None and base in found and name != base
            cells.append(f"{found[name].mean - found[base].mean:+.2f}" if known else "-")
        return cells

    head = ["Change", "Added to vanilla, %", "Points", "Left out of improved, %", "Points"]
    changes = ablation.changes(results.model, results.dataset)
    rows = [row(change.title, f"{VANILLA}+{change.name}", f"{IMPROVED}-{change.name}") for change in changes]
    return [head, row("none", VANILLA, IMPROVED), *rows]


def findings(results: Ablation) -> list[str]:
    """Say in words what the table shows; nothing as long as the vanilla or the improved network is missing."""
    found = _accuracies(results)
    if VANILLA not in found or IMPROVED not in found:
        return []
    vanilla, improved = found[VANILLA], found[IMPROVED]
    changes = ablation.changes(results.model, results.dataset)
    said = [
        f"All changes together bring {improved.mean - vanilla.mean:+.2f} points, from {vanilla.mean:.2f} to "
        f"{improved.mean:.2f} %."
    ]
    added = _effects(found, vanilla, {change.title: f"{VANILLA}+{change.name}" for change in changes}, 1)
    left_out = _effects(found, improved, {change.title: f"{IMPROVED}-{change.name}" for change in changes}, -1)
    said += [*_ranking("Added alone", added), *_ranking("By what is lost without it", left_out)]
    if len(added) == len(changes):
        total = sum(points for points, _ in added.values())
        said.append(
            f"The changes added alone sum to {total:+.2f} points: "
            + ("together they bring more." if total < improved.mean - vanilla.mean else "together they bring less.")
        )
    return said


def _effects(
    found: dict[str, Accuracy], base: Accuracy, names: dict[str, str], sign: int
) -> dict[str, tuple[float, bool]]:
    """Return what each change gains in points and whether that is more than two standard errors, by its title.

    Args:
        found: the accuracy of each variant.
        base: what they are compared with.
        names: of the variants, by the titles of their changes.
        sign: 1 where a variant has the change, -1 where it lacks it.
    """
    effects = {}
    for title, name in names.items():
        if name in found:
            points = sign * (found[name].mean - base.mean) + 0.0  # no -0.00
            effects[title] = points, abs(points) > 2 * math.sqrt(found[name].variance + base.variance)
    return effects


def _ranking(how: str, effects: dict[str, tuple[float, bool]]) -> list[str]:
    """Say which changes help, which harm and which do neither beyond the noise of the test images."""
    ranked = sorted(effects.items(), key=lambda item: -item[1][0])
    helps = [f"{title} ({points:+.2f})" for title, (points, clear) in ranked if clear and points > 0]
    harms = [f"{title} ({points:+.2f})" for title, (points, clear) in ranked if clear and points < 0]
    unclear = [f"{title} ({points:+.2f})" for title, (points, clear) in ranked if not clear]
    said = [f"{how}, these help: {listed(helps)}."] if helps else []
    said += [f"{how}, these harm: {listed(harms)}."] if harms else []
    return said + ([f"{how}, these are within noise: {listed(unclear)}."] if unclear else [])


def _plot_name(results: Ablation) -> str | None:
    """Return the name of the plot; None as long as a variant that it shows is missing."""
    added = [f"{VANILLA}+{change.name}" for change in ablation.changes(results.model, results.dataset)]
    complete = {VANILLA, IMPROVED, *added} <= _accuracies(results).keys()
    return f"ablation-{results.model}-{results.dataset}.png" if complete else None


def write_plot(results: Ablation, folder: Path) -> None:
    """Plot the way from the vanilla accuracy to the improved one; nothing as long as a part of it is missing."""
    name = _plot_name(results)
    if name is None:
        return
    found = _accuracies(results)
    steps = {
        change.title: found[f"{VANILLA}+{change.name}"].mean - found[VANILLA].mean
        for change in ablation.changes(results.model, results.dataset)
    }
    steps["together, beyond their sum"] = found[IMPROVED].mean - found[VANILLA].mean - sum(steps.values())
    title = f"{NETWORKS[results.model].title}, {DATASETS[results.dataset].title}: each change alone"
    ends = (f"{NETWORKS[results.model.replace(IMPROVED, VANILLA)].title}", NETWORKS[results.model].title)
    plots.waterfall(found[VANILLA].mean, steps, ends, f"{title}, {results.epochs} epochs", folder / name)
