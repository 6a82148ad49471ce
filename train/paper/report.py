"""REPORT.md: the paper's tables and figures beside ours."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from train.cards import rendering
from train.files import write_text
from train.paper import ablation, ablation_report, claims, findings, items, losses, ours, paper, smoothing, tables
from train.paper.architecture import layers
from train.paper.architecture import tables as architecture_tables
from train.paper.figures import curves, images
from train.paper.figures import files as figures
from train.paper.ours import Entries
from train.records import CardMetrics, PaperRun
from train.training import models
from zoo.catalog import DATASETS, NETWORKS

TEMPLATES = rendering.environment(Path(__file__).parent / "templates")


def render(published: Entries[CardMetrics], reproduced: Entries[PaperRun]) -> str:
    """Return the text of REPORT.md."""
    ablations = ablation.published()
    evidence = items.Evidence(published, reproduced, ablations)
    chains = ours.chains(published)
    return TEMPLATES.get_template("report.md.j2").render(
        findings=findings.sentences(published, reproduced),
        items={heading: items.table(found) for heading, found in items.every(evidence).items()},
        architectures=[_architecture(family, evidence) for family in curves.FAMILIES],
        residual_blocks=layers.blocks(evidence.networks["vanilla_resnet18"]),
        inception=layers.blocks(evidence.networks["vanilla_googlenet"])[0],
        modules=sum(layer.kind == "block" for layer in evidence.networks["vanilla_googlenet"].layers),
        side=layers.SIDE,
        seed=images.SEED,
        augmented=images.TIMES,
        datasets=[_section(name, published, reproduced, chains) for name in DATASETS],
        published=len(published),
        reproduced=len(reproduced),
        every=len(ours.ALL),
        students=[
            f"{tables.title(dataset, model)} (`{entry.metrics.teacher.name}`)"
            for (dataset, model), entry in sorted(published.items())
            if entry.metrics.teacher
        ],
        unlogged=[tables.title(*key) for key in tables.in_order(published) if chains[key].missing],
        missing=_missing(reproduced),
        reproductions=tables.reproductions(reproduced),
        another_reading=_another_reading(reproduced),
        ablations=[ablation_report.section(found) for found in ablations],
        smoothing=[found for results in ablations if (found := smoothing.section(results)) is not None],
        same_epochs=tables.same_epochs(reproduced),
        plain_alone=tables.without_smoothed_loss(reproduced),
        readings=losses,
        parameters={model: evidence.networks[model].parameters for model in paper.MODELS},
        calibration=tables.calibration(published),
        robustness=tables.robustness(published),
        corrupted={name for (name, _), entry in published.items() if entry.robustness},
        costs=tables.costs(published),
        **_validation_in_the_logs(),
    )


def _architecture(family: str, evidence: items.Evidence) -> dict[str, object]:
    """Return the values of a family's section."""
    vanilla, improved = (evidence.networks[f"{kind}_{family}"] for kind in ("vanilla", "improved"))
    return {
        "family": family,
        "title": NETWORKS[vanilla.name].title,
        "table": architecture_tables.beside(vanilla, improved),
    }


def _section(
    name: str,
    published: Entries[CardMetrics],
    reproduced: Entries[PaperRun],
    chains: Mapping[tuple[str, str], ours.Chain],
) -> dict[str, object]:
    """Return the values of a dataset's sections."""
    own = {model: entry for (dataset, model), entry in published.items() if dataset == name}
    again = {model: reproduced[dataset, model] for dataset, model in tables.in_order(reproduced) if dataset == name}
    of_runs = {model: chain for (dataset, model), chain in chains.items() if dataset == name}
    return {
        "name": name,
        "title": DATASETS[name].title,
        "table": items.TABLE[name],
        "loss_figure": items.LOSS_FIGURE[name],
        "accuracy_figure": items.ACCURACY_FIGURE[name],
        "hardest_figure": items.HARDEST_FIGURE[name],
        "images_figure": items.IMAGES_FIGURE[name],
        "per_class": tables.per_class(name, own),
        "verdicts": tables.verdicts(name, own, again),
        "loss_verdicts": tables.loss_verdicts(name, of_runs, again),
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
    figures.write(published, reproduced, ours.report_folder())
    for results in ablation.published():
        ablation_report.write_plot(results, ours.report_folder())
        smoothing.write_plot(results, ours.report_folder())
    write_text(models.PROJECT / "REPORT.md", render(published, reproduced))
    every = len(ours.ALL)
    print(f"REPORT.md: {len(published)} of {every} models, {len(reproduced)} of {every} runs of the paper's recipe")
    return 0
