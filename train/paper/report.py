"""REPORT.md: the paper's tables and figures beside ours."""

from pathlib import Path
from statistics import fmean

from train.cards import rendering
from train.files import write_text
from train.paper import ablation, ablation_report, claims, figures, ours, paper, tables
from train.paper.ours import Entries
from train.records import CardMetrics, PaperRun
from train.training import models
from zoo.catalog import DATASETS, NETWORKS

TEMPLATES = rendering.environment(Path(__file__).parent / "templates")

# The numbers of the paper's tables and figures, by dataset.
TABLE = {"mnist": 2, "cifar10": 3}
LOSS_FIGURE = {"mnist": 5, "cifar10": 6}
ACCURACY_FIGURE = {"mnist": 7, "cifar10": 8}
HARDEST_FIGURE = {"mnist": 9, "cifar10": 10}


def render(published: Entries[CardMetrics], reproduced: Entries[PaperRun]) -> str:
    """Return the text of REPORT.md."""
    return TEMPLATES.get_template("report.md.j2").render(
        datasets=[_section(name, published, reproduced) for name in DATASETS],
        published=len(published),
        reproduced=len(reproduced),
        every=len(ours.ALL),
        students=[
            f"{tables.title(dataset, model)} (`{entry.metrics.teacher.name}`)"
            for (dataset, model), entry in sorted(published.items())
            if entry.metrics.teacher
        ],
        missing=_missing(reproduced),
        reproductions=tables.reproductions(reproduced),
        another_reading=_another_reading(reproduced),
        ablations=[ablation_report.section(found) for found in ablation.published()],
        same_epochs=tables.same_epochs(reproduced),
        parameters={model: entry.metrics.parameters for (name, model), entry in published.items() if name == "cifar10"},
        calibration=tables.calibration(published),
        robustness=tables.robustness(published),
        corrupted={name for (name, _), entry in published.items() if entry.robustness},
        costs=tables.costs(published),
        **_validation_in_the_logs(),
    )


def _section(name: str, published: Entries[CardMetrics], reproduced: Entries[PaperRun]) -> dict[str, object]:
    """Return the values of a dataset's sections."""
    own = {model: entry for (dataset, model), entry in published.items() if dataset == name}
    again = {model: reproduced[dataset, model] for dataset, model in tables.in_order(reproduced) if dataset == name}
    return {
        "name": name,
        "title": DATASETS[name].title,
        "table": TABLE[name],
        "loss_figure": LOSS_FIGURE[name],
        "accuracy_figure": ACCURACY_FIGURE[name],
        "hardest_figure": HARDEST_FIGURE[name],
        "per_class": tables.per_class(name, own),
        "verdicts": tables.verdicts(name, own, again),
        "reproduced": tables.per_class(name, again, list(again)) if again else None,
    }


def _missing(reproduced: Entries[PaperRun]) -> list[str]:
    """Return what is left to reproduce, as in "VGG16 and Improved VGG16 on CIFAR-10"."""
    found = []
    for name, dataset in DATASETS.items():
        networks = [NETWORKS[model].title for model in paper.MODELS if (name, model) not in reproduced]
        if networks:
            found.append(f"{rendering.listed(networks)} on {dataset.title}")
    return found


def _another_reading(reproduced: Entries[PaperRun]) -> list[str]:
    """Return the milestones of the reproductions that follow an earlier reading of the paper."""
    found = [entry.metrics for entry in reproduced.values() if ours.of_another_reading(entry.metrics)]
    return [f"{milestone:g}" for milestone in found[0].milestones] if found else []


def _validation_in_the_logs() -> dict[str, object]:
    """Return what the paper's logs of CIFAR-10 end with, and what its claims would be with VGG16's accuracy in them."""
    logged = {model: epochs[-1] for model, epochs in paper.LOGS["cifar10"].items()}
    accuracies = {model: result.accuracy for model, result in paper.results("cifar10").items()}
    likely = accuracies | {"improved_vgg16": logged["improved_vgg16"].validation_accuracy}
    improved, vanilla = (fmean(likely[model] for model in kind) for kind in (claims.IMPROVED, claims.VANILLA))
    return {
        "logged": logged,
        "accuracies": accuracies,
        "likely_improved": improved,
        "likely_gap": improved - vanilla,
        "likely_vgg_gain": likely["improved_vgg16"] - accuracies["vanilla_vgg16"],
        "logged_improved": fmean(logged[model].validation_accuracy for model in claims.IMPROVED),
    }


def write(finished: list[Path]) -> int:
    """Keep finished runs of the paper's recipe, and write REPORT.md and its figures."""
    for run in finished:
        print(f"Added {ours.add_reproduction(run)}")
    published, reproduced = ours.published(models.cards()), ours.reproductions()
    if not published:
        raise models.ModelError(f"no published models in {models.MODEL_CARDS}")
    figures.write(published, reproduced, models.PROJECT / "docs" / "report")
    for results in ablation.published():
        ablation_report.write_plot(results, models.PROJECT / "docs" / "report")
    write_text(models.PROJECT / "REPORT.md", render(published, reproduced))
    every = len(ours.ALL)
    print(f"REPORT.md: {len(published)} of {every} models, {len(reproduced)} of {every} runs of the paper's recipe")
    return 0
