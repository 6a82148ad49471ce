"""The tables of REPORT.md: the paper's numbers beside ours. Each is a list of rows of cells, the header first."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from train.cards import wording
from train.cards.rendering import fixed, thousands
from train.paper import claims, losses, paper
from train.paper.ours import ALL, Chain, Entries, Entry, of_another_reading
from train.records import CardMetrics, PaperRun, RunMetrics
from train.training.results.plots import SMOOTHED
from zoo.catalog import DATASETS, NETWORKS

Table = list[list[str]]


def per_class(dataset: str, ours: Mapping[str, Entry[RunMetrics]], shown: Sequence[str] = paper.MODELS) -> Table:
    """Return the paper's per-class table, each cell the paper's accuracy and ours.

    Args:
        dataset: mnist or cifar10.
        ours: by model; a model that is missing gets dashes.
        shown: the models to show, a column each.
    """

    def row(head: str, theirs: Iterable[str], mine: Mapping[str, float]) -> list[str]:
        return [head, *(f"{their} / {fixed(mine.get(model))}" for model, their in zip(shown, theirs, strict=True))]

    metrics = {model: ours[model].metrics for model in shown if model in ours}
    accuracies = {model: found.tested_classes for model, found in metrics.items()}
    reported = [paper.per_class(dataset, model) for model in shown]
    table = [["Class", *(NETWORKS[model].title for model in shown)]]
    for name in paper.TABLES[dataset]:
        mine = {model: values[name] for model, values in accuracies.items()}
        table.append(row(name, (fixed(values[name]) for values in reported), mine))
    means = {model: fmean(values.values()) for model, values in accuracies.items()}
    table.append(row("**Mean of the classes**", (fixed(paper.accuracy(dataset, model)) for model in shown), means))
    if len(set(DATASETS[dataset].test_images)) > 1:
        theirs = (fixed(paper.of_all_images(dataset, model)) for model in shown)
        table.append(row("**All images**", theirs, {model: found.test_accuracy for model, found in metrics.items()}))
    last = [paper.LOGS[dataset][model][-1] for model in shown]
    logged = (f"{fixed(epoch.validation_accuracy)} ({epoch.number})" for epoch in last)
    validation = {model: found.validation_accuracy for model, found in metrics.items()}
    table.append(row("Validation (the paper's: epoch)", logged, validation))
    return table


def costs(published: Entries[CardMetrics]) -> Table:
    """Return parameters, training time and hardware of each published model, over all runs that led to it."""
    table = [
        [
            "Model", "Parameters", "Recipe", "Epochs", "Minutes", "Hardware", "Threads", "Precision",
            "Seconds per epoch in the paper",
        ]
    ]  # fmt: skip
    for (dataset, model), entry in sorted(published.items()):
        metrics = entry.metrics
        seconds = metrics.train_seconds + sum(run.train_seconds for run in metrics.earlier)
        table.append(
            [
                title(dataset, model),
                thousands(metrics.parameters),
                wording.recipe_and_teacher(metrics),
                wording.epochs(metrics),
                fixed(seconds / 60, 0),
                metrics.device,
                str(metrics.threads),
                wording.precision(metrics),
                fixed(paper.LOGS[dataset][model][0].seconds, 0),
            ]
        )
    return table


def calibration(published: Entries[CardMetrics]) -> Table:
    """Return calibration and abstention of each published model on the test split, with its fp32 file."""
    table = [
        [
            "Model", "Temperature", "Curvature", "ECE, softmax / calibrated, %", "ECE of int8, %", "NLL", "Brier score",
            "Answers from, %", "Promised, %", "Answered, %", "Of these right, %",
        ]
    ]  # fmt: skip
    for dataset, model in in_order(published):
        metrics = published[dataset, model].metrics
        if (found := metrics.calibration) is None:
            continue
        table.append(
            [
                title(dataset, model),
                fixed(metrics.temperature, 3),
                fixed(metrics.curvature),
                f"{fixed(100 * found.ece_uncalibrated)} / {fixed(100 * found.ece)}",
                fixed(100 * found.int8.ece if found.int8 else None),
                fixed(found.nll, 4),
                fixed(found.brier, 4),
                fixed(None if metrics.abstain_below is None else 100 * metrics.abstain_below),
                fixed(None if metrics.abstain_target is None else 100 * metrics.abstain_target, 1),
                fixed(100 * found.coverage),
                fixed(None if found.accuracy_covered is None else 100 * found.accuracy_covered),
            ]
        )
    return table


def robustness(published: Entries[CardMetrics]) -> Table:
    """Return accuracy and calibration of each published model on clean and on corrupted test images."""
    table = [["Model", "Clean, %", "Corrupted, %", "Severity 1 / 3 / 5, %", "ECE clean / corrupted, %"]]
    for dataset, model in in_order(published):
        if (found := published[dataset, model].robustness) is None:
            continue
        by_severity = found.by_severity.accuracy
        table.append(
            [
                title(dataset, model),
                fixed(found.clean.accuracy),
                fixed(found.mean.accuracy),
                " / ".join(fixed(by_severity[severity - 1]) for severity in (1, 3, 5)),
                f"{fixed(100 * found.clean.ece)} / {fixed(100 * found.mean.ece)}",
            ]
        )
    return table


def results(ours: Mapping[str, Entry[RunMetrics]]) -> paper.Results:
    """Return our results as the claims take them: by model, with the mean of the classes, as in the paper's tables."""
    accuracies = {model: entry.metrics.tested_classes for model, entry in ours.items()}
    return {model: paper.Result(fmean(values.values()), values) for model, values in accuracies.items()}


def sources(
    dataset: str, ours: Mapping[str, Entry[RunMetrics]], reproduced: Mapping[str, Entry[RunMetrics]]
) -> dict[str, paper.Results]:
    """Return the results that the claims about accuracy are checked against, by where they are from."""
    return {
        "In the paper's own table": paper.results(dataset),
        "In our results": results(ours),
        "In our runs of the paper's recipe": results(reproduced),
    }


def loss_sources(
    dataset: str, chains: Mapping[str, Chain], reproduced: Mapping[str, Entry[RunMetrics]]
) -> dict[str, losses.Losses]:
    """Return the validation losses that the claims about them are checked against; ours are with plain labels."""

    def plain(rows: list[dict[str, float]]) -> list[float]:
        return [row["validation_loss"] for row in rows]

    return {
        "In the paper's logs": losses.in_the_papers_logs(dataset),
        "In our results": {model: plain(chain.rows) for model, chain in chains.items()},
        "In our runs of the paper's recipe": {model: plain(entry.log) for model, entry in reproduced.items()},
    }


def verdicts(dataset: str, ours: Mapping[str, Entry[RunMetrics]], reproduced: Mapping[str, Entry[RunMetrics]]) -> Table:
    """Return the paper's claims about accuracy and whether they hold in each of `sources`.

    The column of the reproductions is left out where they decide no claim.
    """
    rows = [
        [claim.text, *(claim.verdict(found) for found in sources(dataset, ours, reproduced).values())]
        for claim in claims.of(dataset)
    ]
    return _decided(["Claim", *sources(dataset, ours, reproduced)], rows)


def loss_verdicts(dataset: str, chains: Mapping[str, Chain], reproduced: Mapping[str, Entry[RunMetrics]]) -> Table:
    """Return the paper's claims about the loss likewise."""
    found = loss_sources(dataset, chains, reproduced)
    rows = [[claim.text, *(claim.verdict(one) for one in found.values())] for claim in losses.of(dataset)]
    return _decided(["Claim", *found], rows)


def _decided(head: list[str], rows: Table) -> Table:
    """Return a table without its last column where that has nothing but dashes."""
    if all(row[-1] == "-" for row in rows):
        return [row[:-1] for row in (head, *rows)]
    return [head, *rows]


def same_epochs(reproduced: Entries[RunMetrics]) -> Table:
    """Return the epochs that the paper's logs show beside the same epochs of our reproductions.

    The paper's validation loss is with the labels that the network trains on: smoothed for the improved ones.
    """
    table = [
        [
            "Model", "Epoch", "Training, %", "Validation, %", "Training loss", "Validation loss, labels as in training",
            "Validation loss, plain labels, ours",
        ]
    ]  # fmt: skip
    for dataset, model in in_order(reproduced):
        log = {int(row["epoch"]): row for row in reproduced[dataset, model].log}
        as_trained = SMOOTHED if model in claims.IMPROVED else "validation_loss"
        for theirs in paper.LOGS[dataset][model]:
            ours = log[theirs.number]
            train_loss, validation_loss = paper.mean_losses(dataset, theirs)
            table.append(
                [
                    title(dataset, model),
                    str(theirs.number),
                    f"{theirs.train_accuracy:.2f} / {ours['train_accuracy']:.2f}",
                    f"{theirs.validation_accuracy:.2f} / {ours['validation_accuracy']:.2f}",
                    f"{train_loss:.2f} / {ours['train_loss']:.2f}",
                    f"{validation_loss:.2f} / {fixed(ours.get(as_trained))}",
                    fixed(ours["validation_loss"]),
                ]
            )
    return table


def without_smoothed_loss(reproduced: Entries[RunMetrics]) -> list[str]:
    """List the reproductions of improved networks whose log has the validation loss with plain labels alone."""
    return [
        title(dataset, model)
        for dataset, model in in_order(reproduced)
        if model in claims.IMPROVED and any(SMOOTHED not in row for row in reproduced[dataset, model].log)
    ]


def reproductions(reproduced: Entries[PaperRun]) -> Table:
    """Return the accuracy that our reproductions end with beside the paper's, and what they took.

    A star marks the runs that lowered the learning rate at other epochs than recipe `paper` does today.
    """
    table = [
        [
            "Model", "Test, paper / ours, %", "Validation, ours, %", "Lowest validation loss (epoch)",
            "After the last epoch", "Minutes", "Seed", "Hardware",
        ]
    ]  # fmt: skip
    for dataset, model in in_order(reproduced):
        metrics, log = reproduced[dataset, model].metrics, reproduced[dataset, model].log
        lowest = min(log, key=lambda row: row["validation_loss"])
        table.append(
            [
                title(dataset, model) + ("*" if of_another_reading(metrics) else ""),
                f"{fixed(paper.accuracy(dataset, model))} / {fixed(metrics.test_accuracy)}",
                fixed(metrics.validation_accuracy),
                f"{lowest['validation_loss']:.2f} ({lowest['epoch']:.0f})",
                f"{log[-1]['validation_loss']:.2f}",
                fixed(metrics.train_seconds / 60, 0),
                str(metrics.seed),
                f"{metrics.device}, {wording.precision(metrics)}",
            ]
        )
    return table


def in_order(entries: Entries[RunMetrics]) -> list[tuple[str, str]]:
    """Return the datasets and models of entries in the paper's order."""
    return [key for key in ALL if key in entries]


def title(dataset: str, model: str) -> str:
    """Return the name of a network for a dataset, as in "GoogLeNet, MNIST"."""
    return f"{NETWORKS[model].title}, {DATASETS[dataset].title}"
