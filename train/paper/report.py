"""REPORT.md: the paper's tables and plots beside ours.

Ours come from the `metrics.json` and `log.csv` of the published models; the paper's from `train/paper/paper.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from train.cards import provenance
from train.files import read_json, write_text
from train.paper import claims, kept_runs, paper
from train.paper import report_tables as tables
from train.paper.report_tables import Record, Runs
from train.training import epoch_log, models, plots
from zoo.catalog import DATASETS, NETWORKS

# Its tables and figures, by dataset.
TABLE = {"mnist": 2, "cifar10": 3}


LOSS_FIGURE = {"mnist": 5, "cifar10": 6}


ACCURACY_FIGURE = {"mnist": 7, "cifar10": 8}


HARDEST_FIGURE = {"mnist": 9, "cifar10": 10}


def read(cards: list[Path]) -> Runs:
    """What is published of the paper's networks and datasets, by dataset and model."""
    found = {}
    for card in cards:
        metrics = read_json(card / "metrics.json")
        if metrics["dataset"] in DATASETS and metrics["model"] in paper.MODELS:
            found[metrics["dataset"], metrics["model"]] = Record(metrics, epoch_log.read(card / "log.csv"))
    return found


def repeated(runs: Runs) -> Iterator[str]:
    """The section on our runs of the paper's recipe; nothing where there is none."""
    if not runs:
        return
    yield "## The paper's recipe, run again"
    yield ""
    yield (
        "As section 5.1 has it, on the networks of this project; what it leaves open is decided in "
        "[train/training/recipes.py](train/training/recipes.py). Test split, after the last of 50 epochs, one run "
        "each. These weights are not published; the models above are of recipe `fast`. The vanilla networks see 64x64 "
        "pixels in these: the "
        "paper does not give their input size, and its log of ResNet18 on CIFAR-10 is met at that one in accuracy, "
        "less well in loss. The size was chosen by that log; GoogLeNet's, which had no part in it, is met in both "
        "([docs/recipe.md](docs/recipe.md))."
    )
    yield ""
    yield from _still_to_run(runs)
    yield from tables.ends(runs)
    yield ""
    yield (
        "The paper says that the loss of its vanilla networks on CIFAR-10 rises for almost every epoch, from a very "
        "early stage (under 10 epochs), and that of the improved ones falls."
    )
    yield ""
    yield (
        "The epochs that the paper's logs show (Figures 11 to 14), its figure / ours. Its losses are printed as the "
        "sum of the batches' means divided by the number of images; here they are for an image. Those of its improved "
        "networks have smoothed labels on validation too, ours in training alone."
    )
    yield ""
    yield from tables.same_epochs(runs)
    for dataset, title in ((name, entry.title) for name, entry in DATASETS.items()):
        if shown := {model: runs[dataset, model] for name, model in tables.in_order(runs) if name == dataset}:
            yield ""
            yield f"Per-class accuracy on {title}, %, the paper's Table {TABLE[dataset]} / ours:"
            yield ""
            yield from tables.table(dataset, shown, list(shown))
            yield ""
            yield f"![Loss with the paper's recipe, {title}](docs/report/{dataset}-paper-loss.png)"
            yield f"![Accuracy with the paper's recipe, {title}](docs/report/{dataset}-paper-accuracy.png)"
    yield ""


def _still_to_run(runs: Runs) -> Iterator[str]:
    """Which of the twelve are missing, and how they are added."""
    missing = {
        title: [NETWORKS[model].title for name, model in tables.ALL if name == dataset and (name, model) not in runs]
        for dataset, title in ((name, entry.title) for name, entry in DATASETS.items())
    }
    if any(missing.values()):
        left = "; ".join(f"{provenance.listed(names)} on {title}" for title, names in missing.items() if names)
        yield (
            f"{len(runs)} of {len(tables.ALL)} are here. Still to be run: {left} (`python train/fit_all.py --recipe "
            "paper`; `python train/report.py RUN_FOLDER` takes a finished run in)."
        )
        yield ""


def text_against_tables(published: Runs) -> Iterator[str]:
    """Where the paper contradicts itself, and what hangs on that."""
    logged = {model: epochs[-1] for model, epochs in paper.LOGS["cifar10"].items()}
    vgg, googlenet, resnet = (logged[model] for model in ("improved_vgg16", "improved_googlenet", "vanilla_resnet18"))
    accuracies = {model: result.accuracy for model, result in paper.results("cifar10").items()}
    likely = accuracies | {"improved_vgg16": vgg.validation_accuracy}
    improved, vanilla = (fmean(likely[model] for model in models) for models in (claims.IMPROVED, claims.VANILLA))
    yield (
        f"- The improved VGG16 on CIFAR-10 has {vgg.validation_accuracy:.2f} % on validation in the logs (Figure 13, "
        f"epoch {vgg.number}), and a mean of {accuracies['improved_vgg16']:.2f} % in Table 3. Three claims fail by "
        f"that column alone: with the logs' figure in it the improved networks would have {improved:.2f} % on average, "
        f"{improved - vanilla:.2f} points more than the vanilla ones, and VGG16 would gain "
        f"{likely['improved_vgg16'] - accuracies['vanilla_vgg16']:.2f}. The improved GoogLeNet has "
        f"{googlenet.validation_accuracy:.2f} % on validation and {accuracies['improved_googlenet']:.2f} % in Table 3."
    )
    yield (
        "- The text has 86 % on validation for the improved networks and 76 % for the vanilla ones, on average. The "
        f"logs' last epochs give {fmean(logged[model].validation_accuracy for model in claims.IMPROVED):.2f} % for the "
        f"improved ones; the vanilla ResNet18's stops at epoch {resnet.number}, so the other cannot be checked."
    )
    yield (
        "- The text gives CIFAR-10 the 60,000 training and 10,000 validation images of MNIST; CIFAR-10 has 50,000, of "
        "which the logs show 45,000 and 5,000."
    )
    yield (
        "- Label smoothing leaves the true class 1 - alpha by the text, 1 - alpha + alpha / k by the formula. Recipe "
        "`paper` follows the formula."
    )
    if {("cifar10", model) for model in ("improved_vgg16", "vanilla_vgg16")} <= published.keys():
        few, many = (published["cifar10", f"{kind}_vgg16"].metrics["parameters"] for kind in ("improved", "vanilla"))
        yield f'- The improved VGG16\'s "number of parameters is much lower": {few:,} instead of {many:,}.'


def _beginning(published: Runs) -> Iterator[str]:
    """What the figures are of, and how far they can be compared."""
    count = (
        "All twelve models are" if len(published) == len(tables.ALL) else f"{len(published)} of the twelve models are"
    )
    taught = [
        f"{tables.title(dataset, model)} (`{teacher['name']}`)"
        for (dataset, model), entry in sorted(published.items())
        if (teacher := entry.metrics.get("teacher"))
    ]
    yield (
        "*Deep Networks for Image Classification* (Skoularikis, 2021) and this project's weights. "
        f"{count} published; figures are on the test split where nothing else is said, with the weights after the last "
        "epoch. Written by `python train/report.py` from the models' `metrics.json`."
    )
    yield ""
    yield (
        "The paper trained its vanilla networks at a fixed rate without augmentation, its improved ones with a "
        "schedule, weight decay, label smoothing and augmentation. Ours are of recipe `fast`, which has all that for "
        "the vanilla ones too; they see 32x32 pixels, the improved ones 64x64. The epochs differ (see Cost)"
        f"{f', and a teacher had its part in {provenance.listed(taught)}' if taught else ''}. So what an "
        "improved network gains on its vanilla one is not by its architecture alone, neither there nor here. One run "
        "each: the test images leave a standard error of about 0.3 points on CIFAR-10 and 0.06 on MNIST, and other "
        "seeds would add to it. Whether a finished run was published has in some cases been decided by its test "
        "accuracy too ([docs/recipe.md](docs/recipe.md)), which flatters ours a little."
    )
    yield ""


def render(published: Runs, runs: Runs) -> str:
    """The text of REPORT.md."""
    lines = ["# The paper's results beside ours", "", *_beginning(published)]
    for dataset, title in ((name, entry.title) for name, entry in DATASETS.items()):
        ours, repeats = (
            {model: entry for (name, model), entry in entries.items() if name == dataset}
            for entries in (published, runs)
        )
        lines += [
            f"## {title}",
            "",
            f"Per-class accuracy, %, the paper's Table {TABLE[dataset]} / ours:",
            "",
            *tables.table(dataset, ours),
            "",
            f"![Loss over the epochs](docs/report/{dataset}-loss.png)",
            f"![Accuracy over the epochs](docs/report/{dataset}-accuracy.png)",
            "",
            f"Loss and accuracy over the epochs, as the paper's Figures {LOSS_FIGURE[dataset]} and "
            f"{ACCURACY_FIGURE[dataset]}. In training the images are augmented and the labels smoothed (of a taught "
            "network's loss the teacher's part is the larger one); on validation neither is: the two cannot be "
            "compared.",
            "",
            f"![Accuracy of each class](docs/report/{dataset}-classes.png)",
            "",
            f"Accuracy of each class, mean over the models, as the paper's Figure {HARDEST_FIGURE[dataset]}.",
            "",
            *tables.verdicts(dataset, ours, repeats),
            "",
        ]
    lines += [
        '"About" and "around" are taken as within one point, "2.5" as within 0.25. *Within noise*: what decides '
        "is less than two standard errors from deciding otherwise, were each model measured on test images of its own "
        "(of a class: were one model measured).",
        "",
        *repeated(runs),
        "## Text against tables",
        "",
        *text_against_tables(published),
        "",
        "## Cost",
        "",
        'Wall-clock minutes on shared machines: orders of magnitude. "46 + 30" are two runs, the second from the '
        "weights of the first; hardware, threads and precision are those of the last. The paper does not name its "
        "hardware; its seconds an epoch are those of its logs.",
        "",
        *tables.costs(published),
        "",
    ]
    return "\n".join(lines)


def pictures(published: Runs, runs: Runs, to: Path) -> None:
    """Figures 5 to 10 from our logs."""
    to.mkdir(parents=True, exist_ok=True)
    for dataset, title in ((name, entry.title) for name, entry in DATASETS.items()):
        _curves(published, dataset, title, to / dataset)
        if any(name == dataset for name, _ in runs):
            _curves(runs, dataset, f"{title}, the paper's recipe", to / f"{dataset}-paper", marked=True)
        theirs = {name: fmean(row) for name, row in paper.TABLES[dataset].items()}
        entries = [entry.metrics["per_class_accuracy"] for (name, _), entry in published.items() if name == dataset]
        ours = {name: fmean(entry[name] for entry in entries) for name in theirs} if entries else {}
        few = "" if len(entries) == len(paper.MODELS) else f"{len(entries)} of "
        series = {"the paper's six": theirs} | ({f"our {few}six": ours} if ours else {})
        plots.class_accuracies(series, f"{title}: accuracy of each class", to / f"{dataset}-classes.png")


def _curves(entries: Runs, dataset: str, title: str, stem: Path, marked: bool = False) -> None:
    """Loss and accuracy of a dataset's runs; `marked`: with the epochs that the paper's logs show."""
    logs, marks = {}, {}
    for name, model in tables.in_order(entries):
        if name == dataset:
            entry = entries[dataset, model]
            runs = len(entry.metrics.get("earlier", [])) + 1
            panel = NETWORKS[model].title + (f" (the last of {runs} runs)" if runs > 1 else "")
            logs[panel] = entry.log
            if marked:
                marks[panel] = [_as_row(dataset, epoch) for epoch in paper.LOGS[dataset][model]]
    for what in ("loss", "accuracy") if logs else ():
        plots.grid_of_curves(logs, marks, what, f"{title}: {what} over the epochs", Path(f"{stem}-{what}.png"))


def _as_row(dataset: str, epoch: paper.Epoch) -> dict[str, float]:
    """An epoch of the paper's logs as one of ours."""
    train_loss, validation_loss = paper.mean_losses(dataset, epoch)
    return {
        "epoch": epoch.number,
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "train_accuracy": epoch.train_accuracy,
        "validation_accuracy": epoch.validation_accuracy,
    }


def write(finished: list[Path]) -> int:
    """Take in finished runs of the paper's recipe, and write the report."""
    for run in finished:
        print(f"{kept_runs.keep(run)} is taken in")
    published, runs = read(models.cards()), kept_runs.read()
    if not published:
        raise models.ModelError(f"no published models in {models.MODEL_CARDS}")
    pictures(published, runs, models.REPOSITORY / "docs" / "report")
    write_text(models.REPOSITORY / "REPORT.md", render(published, runs))
    every = len(tables.ALL)
    print(f"REPORT.md: {len(published)} of {every} models, {len(runs)} of {every} runs of the paper's recipe")
    return 0
