"""Does label smoothing do what section 4 wants of it? The ablation's runs with and without it, compared.

Section 4 adds it against over-confidence and does not measure that. The ablation trains the vanilla network with it
added, and the improved one without it: nothing else differs within a pair.
"""

from dataclasses import dataclass
from pathlib import Path

from train.paper.section4 import IMPROVED, VANILLA
from train.records import Ablation, AblationRun, ReliabilityBin
from train.training.results import plots
from train.training.results.calibration import ece_of
from zoo.catalog import DATASETS, NETWORKS

CHANGE = "smoothing"


@dataclass(frozen=True)
class Pair:
    """Two runs of one seed that differ in label smoothing alone.

    Attributes:
        title: of the network, as in "Improved ResNet18".
    """

    title: str
    without: AblationRun
    smoothed: AblationRun


def pairs(results: Ablation) -> list[Pair]:
    """List the pairs of an ablation whose calibration was measured: of the vanilla and of the improved network."""
    runs = {(run.variant, run.seed): run for run in results.runs if run.calibration is not None}
    names = {
        results.model.replace(IMPROVED, VANILLA): (VANILLA, f"{VANILLA}+{CHANGE}"),
        results.model: (f"{IMPROVED}-{CHANGE}", IMPROVED),
    }
    return [
        Pair(NETWORKS[model].title, runs[without, seed], runs[smoothed, seed])
        for model, (without, smoothed) in names.items()
        for seed in sorted({seed for _, seed in runs})
        if (without, seed) in runs and (smoothed, seed) in runs
    ]


def section(results: Ablation) -> dict[str, object] | None:
    """Return the values of the report's section; None without a pair."""
    found = pairs(results)
    if not found:
        return None
    return {
        "title": f"{NETWORKS[results.model].title}, {DATASETS[results.dataset].title}",
        "plot": plot_name(results),
        "epochs": results.epochs,
        "table": table(found),
        "findings": [finding(pair) for pair in found],
    }


def plot_name(results: Ablation) -> str:
    """Name the plot of the reliability diagrams."""
    return f"smoothing-{results.model}-{results.dataset}.png"


def write_plot(results: Ablation, folder: Path) -> None:
    """Plot the reliability of each pair, without label smoothing and with it; nothing without a pair."""
    shown = {}
    for pair in pairs(results):
        for how, run in (("without", pair.without), ("with", pair.smoothed)):
            assert run.calibration is not None
            shown[f"{pair.title}, {how} (seed {run.seed})"] = run.calibration
    if shown:
        title = f"Label smoothing, {DATASETS[results.dataset].title}, {results.epochs} epochs"
        plots.reliability(shown, title, folder / plot_name(results), columns=2)


def table(found: list[Pair]) -> list[list[str]]:
    """Return accuracy, over-confidence, ECE and negative log-likelihood of each run on the test split."""
    head = [
        "Network", "Label smoothing", "Accuracy, %", "Highest probability - accuracy, points", "ECE, softmax, %",
        "ECE, calibrated, %", "NLL, calibrated",
    ]  # fmt: skip
    rows = []
    for pair in found:
        for how, run in (("no", pair.without), ("0.1", pair.smoothed)):
            calibration = run.calibration
            assert calibration is not None
            rows.append([
                pair.title, how, f"{run.test_accuracy:.2f}", f"{100 * overconfidence(run):+.2f}",
                f"{100 * calibration.ece_uncalibrated:.2f}", f"{100 * calibration.ece:.2f}", f"{calibration.nll:.4f}",
            ])  # fmt: skip
    return [head, *rows]


def overconfidence(run: AblationRun) -> float:
    """Return by how much the mean highest probability of the plain softmax exceeds the accuracy, as a share."""
    assert run.calibration is not None
    return _gap(run.calibration.reliability_uncalibrated)


def _gap(bins: list[ReliabilityBin]) -> float:
    return sum(row.images * (row.probability - row.accuracy) for row in bins) / max(1, sum(row.images for row in bins))


def finding(pair: Pair) -> str:
    """Say what label smoothing did to the confidence of a network."""
    without, smoothed = overconfidence(pair.without), overconfidence(pair.smoothed)
    said = (
        f"{pair.title}: without label smoothing it is {_words(without)}, with it {_words(smoothed)}, and its accuracy "
        f"changes by {pair.smoothed.test_accuracy - pair.without.test_accuracy:+.2f} points."
    )
    plain, after = _ece(pair.without), _ece(pair.smoothed)
    if without <= 0:
        verdict = "There is no over-confidence for it to act against"
    elif smoothed < 0:
        verdict = "It acts against over-confidence, and overshoots"
    else:
        verdict = "It acts against over-confidence" if smoothed < without else "It does not act against over-confidence"
    return f"{said} {verdict}: the ECE of the softmax goes from {100 * plain:.2f} to {100 * after:.2f} %."


def _ece(run: AblationRun) -> float:
    assert run.calibration is not None
    return ece_of(run.calibration.reliability_uncalibrated)


def _words(gap: float) -> str:
    points = 100 * abs(gap)
    if points < 0.05:
        return "neither over- nor under-confident"
    return f"{'over' if gap > 0 else 'under'}-confident by {points:.1f} points"
