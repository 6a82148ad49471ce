"""All figures of the report, as files."""

from pathlib import Path

from train.paper import claims, ours, paper, tables
from train.paper.architecture import files, layers
from train.paper.figures import curves, images
from train.paper.ours import Entries
from train.records import CardMetrics, PaperRun
from train.shifts import plots as robustness_plots
from train.shifts.robustness import Robustness
from train.training.results import plots
from zoo.catalog import DATASETS, NETWORKS

# Where the axis of the accuracy of each class begins, in percent: MNIST's bars would all look alike.
CLASS_AXIS = {"mnist": 97.0, "cifar10": 0.0}
# In the order of `paper.MODELS`: a hue for each family, light for vanilla and dark for improved.
BAR_COLOURS = ["#a6cee3", "#b2df8a", "#fdbf6f", "#1f78b4", "#33a02c", "#ff7f00"]


def write(published: Entries[CardMetrics], reproduced: Entries[PaperRun], folder: Path) -> None:
    """Write the plots and drawings, with those of our reproductions where there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    for family in claims.FAMILIES:
        files.write(layers.network(f"improved_{family}", layers.SIDE), folder)
    for dataset in DATASETS:
        images.write(dataset, folder / f"{dataset}-images.png")
        _curves(published, reproduced, dataset, folder)
        _class_accuracies(published, reproduced, dataset, folder / f"{dataset}-classes.png")
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


def _class_accuracies(published: Entries[CardMetrics], reproduced: Entries[PaperRun], dataset: str, file: Path) -> None:
    """Plot the accuracy of each class, by model: the paper's, ours, and those of our reproductions."""
    panels = {"The paper's": {model: paper.per_class(dataset, model) for model in paper.MODELS}}
    for name, entries in (("Ours", published), ("Ours, with the paper's recipe", reproduced)):
        found = {
            model: entries[dataset, model].metrics.tested_classes
            for model in paper.MODELS
            if (dataset, model) in entries
        }
        few = "" if len(found) == len(paper.MODELS) else f" ({len(found)} of {len(paper.MODELS)} networks)"
        if found:
            # Every model has its place, so that its colour and its bar are the same in all panels.
            panels[name + few] = {model: found.get(model, {}) for model in paper.MODELS}
    titled = {
        panel: {NETWORKS[model].title: values for model, values in models.items()} for panel, models in panels.items()
    }
    lowest = CLASS_AXIS[dataset]
    plots.class_accuracies(titled, f"{DATASETS[dataset].title}: accuracy of each class", file, BAR_COLOURS, lowest)


def _curves(published: Entries[CardMetrics], reproduced: Entries[PaperRun], dataset: str, folder: Path) -> None:
    """Plot loss and accuracy of a dataset's networks, ours and our reproductions, on the same scale."""
    chains = ours.chains(published)
    ours_of = {
        model: curves.Chain(chains[name, model].runs, chains[name, model].missing, taught=bool(entry.metrics.teacher))
        for (name, model), entry in published.items()
        if name == dataset
    }
    again = {
        model: curves.Chain(
            [reproduced[name, model].log], marks=[as_row(name, model, e) for e in paper.LOGS[name][model]]
        )
        for name, model in tables.in_order(reproduced)
        if name == dataset
    }
    title = DATASETS[dataset].title
    for metric in ("loss", "accuracy"):
        if not (ours_of or again):
            continue
        axis = curves.scale(dataset, metric, [*ours_of.values(), *again.values()])
        words = f"{metric} over the epochs"
        if ours_of:
            curves.grid(ours_of, metric, axis, f"{title}: {words}", folder / f"{dataset}-{metric}.png")
        if again:
            file = folder / f"{dataset}-paper-{metric}.png"
            curves.grid(again, metric, axis, f"{title}, the paper's recipe: {words}", file)


def as_row(dataset: str, model: str, epoch: paper.Epoch) -> dict[str, float]:
    """Return an epoch of the paper's logs as a row of our `log.csv`.

    The validation loss of the improved networks is that with smoothed labels.
    """
    train_loss, validation_loss = paper.mean_losses(dataset, epoch)
    return {
        "epoch": epoch.number,
        "train_loss": train_loss,
        plots.SMOOTHED if model in claims.IMPROVED else "validation_loss": validation_loss,
        "train_accuracy": epoch.train_accuracy,
        "validation_accuracy": epoch.validation_accuracy,
    }
