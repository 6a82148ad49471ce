"""The paper's tables and figures beside ours: `python train/report.py` writes REPORT.md and docs/report/.

Every figure of ours comes from the `metrics.json` and `log.csv` of a published model; the paper's from
`train/paper.py`. What is not published yet is a dash. `python train/report.py RUN_FOLDER ...` also takes in finished
runs of recipe `paper`: their figures and logs, not their weights.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from train import claims, measure, models, paper, paper_runs, plots
from train.files import write_text

NAMES = {
    "vanilla_googlenet": "GoogLeNet",
    "vanilla_resnet18": "ResNet18",
    "vanilla_vgg16": "VGG16",
    "improved_googlenet": "Improved GoogLeNet",
    "improved_resnet18": "Improved ResNet18",
    "improved_vgg16": "Improved VGG16",
}
# Its tables and figures, by dataset.
TABLE = {"mnist": 2, "cifar10": 3}
LOSS_FIGURE = {"mnist": 5, "cifar10": 6}
ACCURACY_FIGURE = {"mnist": 7, "cifar10": 8}
HARDEST_FIGURE = {"mnist": 9, "cifar10": 10}


@dataclass(frozen=True)
class Published:
    """A published model's figures and its log, a row an epoch."""

    metrics: dict[str, Any]
    log: list[dict[str, float]]


def read(cards: list[Path]) -> dict[tuple[str, str], Published]:
    """What is published of the paper's networks and datasets, by dataset and model."""
    found = {}
    for card in cards:
        metrics = json.loads((card / "metrics.json").read_text())
        if metrics["dataset"] in paper.TITLES and metrics["model"] in paper.MODELS:
            found[metrics["dataset"], metrics["model"]] = Published(metrics, measure.read_log(card / "log.csv"))
    return found


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(dataset: str, ours: dict[str, Published]) -> Iterator[str]:
    """The paper's per-class table, each cell the paper's accuracy and ours."""
    yield _row("Class", *(NAMES[model] for model in paper.MODELS))
    yield _row(*["---"] * (1 + len(paper.MODELS)))

    def cell(theirs: float, model: str, name: str | None) -> str:
        if model not in ours:
            return f"{theirs:.2f} / -"
        per_class = ours[model].metrics["per_class_accuracy"]
        return f"{theirs:.2f} / {per_class[name] if name else fmean(per_class.values()):.2f}"

    for name, row in paper.TABLES[dataset].items():
        yield _row(name, *(cell(theirs, model, name) for theirs, model in zip(row, paper.MODELS, strict=True)))
    means = (result.accuracy for result in paper.results(dataset).values())
    yield _row(
        "**Mean of the classes**",
        *(f"**{cell(mean, model, None)}**" for mean, model in zip(means, paper.MODELS, strict=True)),
    )


def costs(published: dict[tuple[str, str], Published]) -> Iterator[str]:
    """Parameters, training time and hardware of each published model, epochs and time of all the runs it came of."""
    yield _row("Model", "Parameters", "Recipe", "Epochs", "Training, minutes", "Hardware", "Threads", "Precision")
    yield _row(*["---"] * 8)
    for (dataset, model), entry in sorted(published.items()):
        metrics = entry.metrics
        runs = [*metrics.get("earlier", []), metrics]
        yield _row(
            f"{NAMES[model]}, {paper.TITLES[dataset]}",
            f"{metrics['parameters']:,}",
            measure.recipe(metrics),
            measure.all_epochs(metrics),
            _number(sum(run["train_seconds"] for run in runs) / 60, 0),
            metrics["device"],
            str(metrics["threads"]),
            {"no": "float32"}.get(metrics["mixed_precision"], metrics["mixed_precision"]),
        )


def results(ours: dict[str, Published]) -> paper.Results:
    """Published models as the claims take them."""
    return {
        model: paper.Result(entry.metrics["test_accuracy"], entry.metrics["per_class_accuracy"])
        for model, entry in ours.items()
    }


def verdicts(dataset: str, ours: dict[str, Published], runs: dict[str, Published]) -> Iterator[str]:
    """What the paper says of its results, held against its own table, against ours, and against our runs of its own
    recipe where there are any."""
    columns = {"by its own table": paper.results(dataset), "by ours": results(ours)}
    if runs:
        columns["by our runs of its recipe"] = results(runs)
    yield _row("The paper says", *columns)
    yield _row(*["---"] * (1 + len(columns)))
    for claim in claims.of(dataset):
        yield _row(claim.text, *(claim.held_against(found) for found in columns.values()))


def same_epochs(runs: dict[tuple[str, str], Published]) -> Iterator[str]:
    """Epochs of the paper's logs beside the same ones of our runs of its recipe."""
    yield _row("Model", "Epoch", "Training, the paper's / ours, %", "Validation, the paper's / ours, %")
    yield _row(*["---"] * 4)
    for dataset, title in paper.TITLES.items():
        for model in paper.MODELS:
            if (dataset, model) not in runs:
                continue
            log = {int(row["epoch"]): row for row in runs[dataset, model].log}
            for theirs in paper.LOGS[dataset][model]:
                ours = log[theirs.number]
                yield _row(
                    f"{NAMES[model]}, {title}",
                    str(theirs.number),
                    f"{theirs.train_accuracy:.2f} / {ours['train_accuracy']:.2f}",
                    f"{theirs.validation_accuracy:.2f} / {ours['validation_accuracy']:.2f}",
                )


def repeated(runs: dict[tuple[str, str], Published]) -> Iterator[str]:
    """The section on our runs of the paper's recipe; nothing where there is none."""
    if not runs:
        return
    yield "## The paper's recipe, run again"
    yield ""
    yield (
        "Section 5.1 to the letter, on the networks of this project: test split, last of 50 epochs, one run each. "
        "These weights are not published; the models above are of recipe `fast`. The vanilla networks see 64x64 in "
        "these: the paper does not give their input size, and its log of ResNet18 fits that one "
        "([docs/recipe.md](docs/recipe.md))."
    )
    yield ""
    yield _row("Model", "The paper, %", "Ours, %", "Validation, %", "Minutes", "Seed", "Hardware")
    yield _row(*["---"] * 7)
    for dataset, title in paper.TITLES.items():
        for model in paper.MODELS:
            if (dataset, model) in runs:
                metrics = runs[dataset, model].metrics
                yield _row(
                    f"{NAMES[model]}, {title}",
                    _number(paper.accuracy(dataset, model)),
                    _number(metrics["test_accuracy"]),
                    _number(metrics["validation_accuracy"]),
                    _number(metrics["train_seconds"] / 60, 0),
                    str(metrics["seed"]),
                    f"{metrics['device']}, {metrics['mixed_precision']} mixed precision",
                )
    yield ""
    yield "The epochs that the paper's logs show (Figures 11 to 14), and the same ones of ours:"
    yield ""
    yield from same_epochs(runs)
    for dataset, title in paper.TITLES.items():
        if any(name == dataset for name, _ in runs):
            yield ""
            yield f"![Loss with the paper's recipe, {title}](docs/report/{dataset}-paper-loss.png)"
            yield f"![Accuracy with the paper's recipe, {title}](docs/report/{dataset}-paper-accuracy.png)"
    yield ""


def render(published: dict[tuple[str, str], Published], runs: dict[tuple[str, str], Published]) -> str:
    """The text of REPORT.md."""
    lines = [
        "# The paper's results beside ours",
        "",
        "*Deep Networks for Image Classification* (Skoularikis, 2021) and this project's weights, test split, "
        f"last epoch, {len(published)} of twelve models published. Written by `python train/report.py` from the "
        "models' `metrics.json`.",
        "",
        "The paper trained its vanilla networks at a fixed rate without augmentation, its improved ones with a "
        "schedule and with augmentation. Ours are all of recipe `fast`, each for as many epochs as there was time "
        "for, which differ much (see Cost).",
        "",
    ]
    for dataset, title in paper.TITLES.items():
        ours, repeats = (
            {model: entry for (name, model), entry in entries.items() if name == dataset}
            for entries in (published, runs)
        )
        lines += [
            f"## {title}",
            "",
            f"Per-class accuracy, %, the paper's Table {TABLE[dataset]} / ours:",
            "",
            *table(dataset, ours),
            "",
            f"![Loss over the epochs](docs/report/{dataset}-loss.png)",
            f"![Accuracy over the epochs](docs/report/{dataset}-accuracy.png)",
            "",
            f"Loss and accuracy over the epochs, as the paper's Figures {LOSS_FIGURE[dataset]} and "
            f"{ACCURACY_FIGURE[dataset]}. The training's loss is with smoothed labels and on augmented images, the "
            "validation's with neither: it lies below. Of weights that came of several runs (see Cost) the last is "
            "shown.",
            "",
            f"![Accuracy of each class](docs/report/{dataset}-classes.png)",
            "",
            f"Accuracy of each class, mean over the models, as the paper's Figure {HARDEST_FIGURE[dataset]}.",
            "",
            *verdicts(dataset, ours, repeats),
            "",
        ]
    logged = paper.LOGS["cifar10"]["improved_vgg16"][-1]
    lines += [
        *repeated(runs),
        "## Text against tables",
        "",
        f"- The logs show the improved VGG16 at {_number(logged.validation_accuracy)} % on validation (Figure 13, "
        f"epoch {logged.number}); its Table 3 has a mean of {_number(paper.accuracy('cifar10', 'improved_vgg16'))} %.",
        "- The text sets 10,000 validation images for both datasets; its logs show 10,000 for MNIST and 5,000 for "
        "CIFAR-10.",
        "",
        "## Cost",
        "",
        "Minutes of machines that other work ran beside, so they tell no more than an order of magnitude.",
        "",
        *costs(published),
        "",
    ]
    return "\n".join(lines)


def pictures(published: dict[tuple[str, str], Published], runs: dict[tuple[str, str], Published], to: Path) -> None:
    """Figures 5 to 10 from our logs."""
    to.mkdir(parents=True, exist_ok=True)
    for dataset, title in paper.TITLES.items():
        _curves(published, dataset, title, to / dataset)
        if any(name == dataset for name, _ in runs):
            _curves(runs, dataset, f"{title}, the paper's recipe", to / f"{dataset}-paper")
        theirs = {name: fmean(row) for name, row in paper.TABLES[dataset].items()}
        entries = [entry.metrics["per_class_accuracy"] for (name, _), entry in published.items() if name == dataset]
        ours = {name: fmean(entry[name] for entry in entries) for name in theirs} if entries else {}
        few = "" if len(entries) == len(paper.MODELS) else f"{len(entries)} of "
        bars = {"the paper's six": theirs} | ({f"our {few}six": ours} if ours else {})
        plots.class_bars(bars, f"{title}: accuracy of each class", to / f"{dataset}-classes.png")


def _curves(entries: dict[tuple[str, str], Published], dataset: str, title: str, stem: Path) -> None:
    logs = {NAMES[model]: entries[dataset, model].log if (dataset, model) in entries else [] for model in NAMES}
    for what in ("loss", "accuracy"):
        plots.grid_of_curves(logs, what, f"{title}: {what} over the epochs", Path(f"{stem}-{what}.png"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python train/report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_FOLDER", help="a finished run of recipe paper")
    args = parser.parse_args(argv)
    try:
        for run in args.runs:
            print(f"{paper_runs.keep(run)} is taken in")
        published = read(models.cards())
        if not published:
            raise models.ModelError(f"no published models in {models.MODEL_CARDS}")
    except (models.ModelError, paper_runs.NotThePapersRunError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    runs = {key: Published(*entry) for key, entry in paper_runs.read().items()}
    pictures(published, runs, models.REPOSITORY / "docs" / "report")
    write_text(models.REPOSITORY / "REPORT.md", render(published, runs))
    print(f"REPORT.md: {len(published)} of 12 models, {len(runs)} of 12 runs of the paper's recipe")
    return 0


if __name__ == "__main__":
    sys.exit(main())
