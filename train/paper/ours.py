"""Our results beside the paper's: those of the published models, and those of reproductions of the paper's runs.

A reproduction is a run of recipe `paper`. The report keeps its metrics and its log, without weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

from train import records
from train.cards import robustness
from train.errors import UserError
from train.files import read_json, write_json, write_text
from train.paper import paper
from train.records import CardMetrics, PaperRun, RunMetrics, RunSettings
from train.shifts.robustness import Robustness
from train.training import models, recipes
from train.training.runs import epoch_log
from zoo.catalog import DATASETS

Metrics_co = TypeVar("Metrics_co", bound=RunMetrics, covariant=True)

# The paper's twelve (dataset, model), in its order.
ALL = [(dataset, model) for dataset in DATASETS for model in paper.MODELS]


@dataclass(frozen=True)
class Entry(Generic[Metrics_co]):
    """Metrics, log (a row for each epoch) and robustness of a published model or a reproduction."""

    metrics: Metrics_co
    log: list[dict[str, float]]
    robustness: Robustness | None = None


@dataclass(frozen=True)
class Chain:
    """The logs of the runs that led to a network's weights, each of which began with the weights of the one before.

    Attributes:
        runs: that there are logs of, the oldest first.
        missing: how many runs before them have no log.
    """

    runs: list[list[dict[str, float]]]
    missing: int = 0

    @property
    def rows(self) -> list[dict[str, float]]:
        """All rows, with the epochs counted from the start of the first run."""
        starts = accumulate((len(run) for run in self.runs), initial=0)
        return [row | {"epoch": row["epoch"] + n} for run, n in zip(self.runs, starts, strict=False) for row in run]


# By dataset and model.
Entries = Mapping[tuple[str, str], Entry[Metrics_co]]


class NotAReproductionError(UserError):
    """A run that differs from the paper's."""


def published(cards: list[Path]) -> dict[tuple[str, str], Entry[CardMetrics]]:
    """Read what is published of the paper's networks and datasets."""
    found = {}
    for card in cards:
        metrics = records.read(CardMetrics, card / "metrics.json")
        if metrics.dataset in DATASETS and metrics.model in paper.MODELS:
            found[metrics.dataset, metrics.model] = Entry(
                metrics, epoch_log.read(card / "log.csv"), robustness.read(card)
            )
    return found


def reproductions() -> dict[tuple[str, str], Entry[PaperRun]]:
    """Read the reproductions that the report keeps."""
    found = {}
    for file in sorted(folder().glob("*.json")):
        metrics = records.read(PaperRun, file)
        found[metrics.dataset, metrics.model] = Entry(metrics, epoch_log.read(file.with_suffix(".csv")))
    return found


def of_another_reading(run: PaperRun) -> bool:
    """Tell whether a reproduction lowered the learning rate at other epochs than recipe `paper` does today."""
    return tuple(run.milestones) != recipes.get("paper", run.model, run.dataset).milestones


def chains(published: Entries[CardMetrics]) -> dict[tuple[str, str], Chain]:
    """Read the logs of all runs that led to the published weights.

    A card has the log of its last run. Those of the runs before it are kept by the name of their weights' SHA-256; a
    chain begins with the run after the last one that has none.
    """
    found = {}
    for key, entry in published.items():
        runs: list[list[dict[str, float]]] = []
        for run in entry.metrics.earlier:
            file = report_folder() / "earlier" / f"{run.name}.{run.safetensors_sha256[:12]}.csv"
            runs = [*runs, epoch_log.read(file)] if file.is_file() else []
        found[key] = Chain([*runs, entry.log], len(entry.metrics.earlier) - len(runs))
    return found


def report_folder() -> Path:
    """Return the folder of the report's files."""
    return models.PROJECT / "docs" / "report"


def folder() -> Path:
    """Return the folder where reproductions are kept."""
    return report_folder() / "paper"


def add_reproduction(run_folder: Path) -> str:
    """Keep the metrics and the log of a finished run of the paper's recipe, and return the run's name.

    Raises:
        NotAReproductionError: it differs from the paper's recipe or data.
        models.ModelError, files.FileError: it is not finished, or damaged.
    """
    models.require_finished(run_folder, "log.csv")
    run = records.read(RunSettings, run_folder / "args.json")
    metrics = records.read(RunMetrics, run_folder / "metrics.json")
    for difference in _differences(run, metrics, epoch_log.read(run_folder / "log.csv")):
        raise NotAReproductionError(f"{run_folder} does not reproduce a run of the paper: {difference}")
    name = f"{run.model}.{run.dataset}"
    folder().mkdir(parents=True, exist_ok=True)
    write_text(folder() / f"{name}.csv", (run_folder / "log.csv").read_text())
    milestones = recipes.of_settings(run.settings).milestones
    of_run = {"model": run.model, "dataset": run.dataset, "milestones": milestones}
    contents = {**of_run, **read_json(run_folder / "metrics.json")}
    write_json(folder() / f"{name}.json", contents)
    return name


def _differences(run: RunSettings, metrics: RunMetrics, rows: list[dict[str, float]]) -> Iterator[str]:
    """Yield how a run differs from the paper's. Any precision will do: the paper states none."""
    if run.model not in paper.MODELS or run.dataset not in DATASETS:
        yield f"its model is {run.model!r}, its dataset {run.dataset!r}"
        return
    if run.recipe != "paper":
        yield f"its recipe is {run.recipe!r}"
        return
    recipe = recipes.as_settings(recipes.get("paper", run.model, run.dataset))
    settings = recipes.as_settings(recipes.of_settings(run.settings))
    for name, value in recipe.items():
        if name != "mixed_precision" and settings[name] != value:
            yield f"its {name} is {settings[name]}, the paper's {value}"
    for flag, given in (
        ("--pretrained", run.pretrained),
        ("--teacher", run.teacher and run.teacher.name),
        ("--overfit", run.overfit),
        ("--model-kwargs", run.model_kwargs),
    ):
        if given:
            yield f"it was trained with {flag} {given}"
    if len(rows) != recipe["epochs"]:
        yield f"its log has {len(rows)} epochs, not {recipe['epochs']}"
    for name, images, expected in (
        ("train_images", metrics.train_images, paper.train_images(run.dataset)),
        ("test_images", metrics.test_images, sum(DATASETS[run.dataset].test_images)),
    ):
        if images != expected:
            yield f"its {name} are {images:,}, not {expected:,}"
