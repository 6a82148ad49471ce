"""The tables of REPORT.md: the paper's figures beside ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from train.cards import training_text
from train.paper import claims, paper
from zoo.catalog import DATASETS, NETWORKS


@dataclass(frozen=True)
class Record:
    """Figures and log, a row an epoch, of a published model or of a run of the paper's recipe."""

    metrics: dict[str, Any]
    log: list[dict[str, float]]


# By dataset and model.
Runs = dict[tuple[str, str], Record]

# The paper's twelve, in its order.
ALL = [(dataset, model) for dataset in DATASETS for model in paper.MODELS]


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(dataset: str, ours: dict[str, Record], shown: Sequence[str] = paper.MODELS) -> Iterator[str]:
    """The paper's per-class table, each cell the paper's accuracy and ours."""
    yield _row("Class", *(NETWORKS[model].title for model in shown))
    yield _row(*["---"] * (1 + len(shown)))

    def row(head: str, theirs: dict[str, str], mine: dict[str, float]) -> str:
        """The paper's cells and our figures, by model."""
        own = {model: f"{mine[model]:.2f}" if model in mine else "-" for model in shown}
        return _row(head, *(f"{theirs[model]} / {own[model]}" for model in shown))

    reported = {model: paper.per_class(dataset, model) for model in shown}
    metrics = {model: ours[model].metrics for model in shown if model in ours}
    per_class = {model: found["per_class_accuracy"] for model, found in metrics.items()}
    for name in paper.TABLES[dataset]:
        theirs = {model: f"{values[name]:.2f}" for model, values in reported.items()}
        yield row(name, theirs, {model: values[name] for model, values in per_class.items()})
    means = {model: f"{paper.accuracy(dataset, model):.2f}" for model in shown}
    yield row("**Mean of the classes**", means, {model: fmean(values.values()) for model, values in per_class.items()})
    if len(set(DATASETS[dataset].test_images)) > 1:
        of_all = {model: f"{paper.of_all_images(dataset, model):.2f}" for model in shown}
        yield row("**All images**", of_all, {model: found["test_accuracy"] for model, found in metrics.items()})
    last = {model: paper.LOGS[dataset][model][-1] for model in shown}
    validation = {model: f"{epoch.validation_accuracy:.2f} ({epoch.number})" for model, epoch in last.items()}
    yield row(
        "Validation (the paper's: after epoch)",
        validation,
        {model: found["validation_accuracy"] for model, found in metrics.items()},
    )


def costs(published: Runs) -> Iterator[str]:
    """Parameters, training time and hardware of each published model, epochs and time of all the runs it came of."""
    yield _row(
        "Model",
        "Parameters",
        "Recipe",
        "Epochs",
        "Minutes",
        "Hardware",
        "Threads",
        "Precision",
        "The paper, s an epoch",
    )
    yield _row(*["---"] * 9)
    for (dataset, model), entry in sorted(published.items()):
        metrics = entry.metrics
        runs = [*metrics.get("earlier", []), metrics]
        yield _row(
            title(dataset, model),
            f"{metrics['parameters']:,}",
            training_text.recipe_and_teacher(metrics),
            training_text.all_epochs(metrics),
            number(sum(run["train_seconds"] for run in runs) / 60, 0),
            metrics["device"],
            str(metrics["threads"]),
            training_text.precision(metrics),
            number(paper.LOGS[dataset][model][0].seconds, 0),
        )


def results(ours: dict[str, Record]) -> paper.Results:
    """Networks of ours as the claims take them: like the paper's, by the mean of their classes."""
    per_class = {model: entry.metrics["per_class_accuracy"] for model, entry in ours.items()}
    return {model: paper.Result(fmean(values.values()), values) for model, values in per_class.items()}


def verdicts(dataset: str, ours: dict[str, Record], runs: dict[str, Record]) -> Iterator[str]:
    """What the paper says of its results, held against its own table, against ours, and against our runs of its own
    recipe where there are enough of them.
    """
    columns = {"by its own table": paper.results(dataset), "by ours": results(ours)}
    repeats = results(runs)
    if any(claim.held_against(repeats) != "-" for claim in claims.of(dataset)):
        columns["by our runs of its recipe"] = repeats
    yield _row("The paper says", *columns)
    yield _row(*["---"] * (1 + len(columns)))
    for claim in claims.of(dataset):
        yield _row(claim.text, *(claim.held_against(found) for found in columns.values()))


def same_epochs(runs: Runs) -> Iterator[str]:
    """Epochs of the paper's logs beside the same ones of our runs of its recipe."""
    yield _row("Model", "Epoch", "Training, %", "Validation, %", "Training loss", "Validation loss")
    yield _row(*["---"] * 6)
    for dataset, model in in_order(runs):
        log = {int(row["epoch"]): row for row in runs[dataset, model].log}
        for theirs in paper.LOGS[dataset][model]:
            ours = log[theirs.number]
            train_loss, validation_loss = paper.mean_losses(dataset, theirs)
            yield _row(
                title(dataset, model),
                str(theirs.number),
                f"{theirs.train_accuracy:.2f} / {ours['train_accuracy']:.2f}",
                f"{theirs.validation_accuracy:.2f} / {ours['validation_accuracy']:.2f}",
                f"{train_loss:.2f} / {ours['train_loss']:.2f}",
                f"{validation_loss:.2f} / {ours['validation_loss']:.2f}",
            )


def in_order(runs: Runs) -> list[tuple[str, str]]:
    """Datasets and models in the paper's order."""
    return [key for key in ALL if key in runs]


def title(dataset: str, model: str) -> str:
    return f"{NETWORKS[model].title}, {DATASETS[dataset].title}"


def ends(runs: Runs) -> Iterator[str]:
    """Where our runs of the paper's recipe end, beside where the paper's did."""
    yield _row(
        "Model", "Test, the paper / ours, %", "Validation, ours, %", "Lowest validation loss (epoch)", "After the last",
        "Minutes", "Seed", "Hardware",
    )  # fmt: skip
    yield _row(*["---"] * 8)
    for dataset, model in in_order(runs):
        metrics, log = runs[dataset, model].metrics, runs[dataset, model].log
        lowest = min(log, key=lambda row: row["validation_loss"])
        yield _row(
            title(dataset, model),
            f"{number(paper.accuracy(dataset, model))} / {number(metrics['test_accuracy'])}",
            number(metrics["validation_accuracy"]),
            f"{lowest['validation_loss']:.2f} ({lowest['epoch']:.0f})",
            f"{log[-1]['validation_loss']:.2f}",
            number(metrics["train_seconds"] / 60, 0),
            str(metrics["seed"]),
            f"{metrics['device']}, {training_text.precision(metrics)}",
        )
