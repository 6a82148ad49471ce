"""The paper's Figures 5 to 10, plotted from our logs."""

from pathlib import Path
from statistics import fmean

from train.paper import paper, tables
from train.paper.ours import Entries
from train.records import CardMetrics, Earlier, PaperRun, RunMetrics
from train.shifts import plots as robustness_plots
from train.shifts.robustness import Robustness
from train.training.results import plots
from zoo.catalog import DATASETS, NETWORKS


def write(published: Entries[CardMetrics], reproduced: Entries[PaperRun], folder: Path) -> None:
    """Write the plots of both datasets, with those of our reproductions where there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    for dataset, entry in DATASETS.items():
        earlier = {key: found.metrics.earlier for key, found in published.items()}
        _curves(published, earlier, dataset, entry.title, folder / dataset)
        if any(name == dataset for name, _ in reproduced):
            title = f"{entry.title}, the paper's recipe"
            _curves(reproduced, {}, dataset, title, folder / f"{dataset}-paper", marked=True)
        _class_accuracies(published, dataset, folder / f"{dataset}-classes.png")
        _reliability(published, dataset, folder / f"{dataset}-reliability.png")
        _robustness(published, dataset, folder)


def _reliability(published: Entries[CardMetrics], dataset: str, file: Path) -> None:
    """Plot the reliability diagrams of a dataset's networks, the vanilla ones above the improved ones."""
    panels = {
        NETWORKS[model].title: found
        for name, model in tables.in_order(published)
        if name == dataset and (found := published[name, model].metrics.calibration)
    }
    if panels:
        plots.reliability(panels, f"{DATASETS[dataset].title}: accuracy by probability, test split", file)


def _robustness(published: Entries[CardMetrics], dataset: str, folder: Path) -> None:
    """Plot accuracy on corrupted images: a heat map of networks and corruptions, and lines over the severities."""
    found = {
        model: result
        for name, model in tables.in_order(published)
        if name == dataset and (result := published[name, model].robustness)
    }
    if not found:
        return
    title = f"{DATASETS[dataset].title}: accuracy on corrupted test images"
    robustness_plots.corruptions(
        {NETWORKS[model].title: result for model, result in found.items()},
        f"{title}, %",
        folder / f"{dataset}-corruptions.png",
    )
    families: dict[str, dict[str, Robustness]] = {}
    for model, result in found.items():
        kind, _, family = model.partition("_")
        families.setdefault(NETWORKS[f"vanilla_{family}"].title, {})[kind] = result
    robustness_plots.severities(families, f"{title}, mean of the corruptions", folder / f"{dataset}-severities.png")


def _class_accuracies(published: Entries[CardMetrics], dataset: str, file: Path) -> None:
    """Plot the accuracy of each class, mean over the models, in the paper and in ours."""
    theirs = {name: fmean(row) for name, row in paper.TABLES[dataset].items()}
    accuracies = [entry.metrics.tested_classes for (name, _), entry in published.items() if name == dataset]
    series = {"the paper's six": theirs}
    if accuracies:
        few = "" if len(accuracies) == len(paper.MODELS) else f"{len(accuracies)} of "
        series[f"our {few}six"] = {name: fmean(values[name] for values in accuracies) for name in theirs}
    plots.class_accuracies(series, f"{DATASETS[dataset].title}: accuracy of each class", file)


def _curves(
    entries: Entries[RunMetrics],
    earlier: dict[tuple[str, str], list[Earlier]],
    dataset: str,
    title: str,
    stem: Path,
    marked: bool = False,
) -> None:
    """Plot loss and accuracy of a dataset's runs; `marked` marks the epochs that the paper's logs show."""
    logs, marks = {}, {}
    for name, model in tables.in_order(entries):
        if name == dataset:
            runs = len(earlier.get((dataset, model), [])) + 1
            panel = NETWORKS[model].title + (f" (the last of {runs} runs)" if runs > 1 else "")
            logs[panel] = entries[dataset, model].log
            if marked:
                marks[panel] = [_as_row(dataset, epoch) for epoch in paper.LOGS[dataset][model]]
    for metric in ("loss", "accuracy") if logs else ():
        plots.grid_of_curves(logs, marks, metric, f"{title}: {metric} over the epochs", Path(f"{stem}-{metric}.png"))


def _as_row(dataset: str, epoch: paper.Epoch) -> dict[str, float]:
    """Return an epoch of the paper's logs as a row of our `log.csv`."""
    train_loss, validation_loss = paper.mean_losses(dataset, epoch)
    return {
        "epoch": epoch.number,
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "train_accuracy": epoch.train_accuracy,
        "validation_accuracy": epoch.validation_accuracy,
    }
