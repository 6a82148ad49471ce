"""Runs of recipe `paper` that the report keeps: their figures and logs, without weights."""

from pathlib import Path
from typing import Any

from train.errors import UserError
from train.files import read_json, write_json, write_text
from train.paper import paper
from train.paper.report_tables import Record, Runs
from train.training import epoch_log, models, recipes
from zoo.catalog import DATASETS


class NotThePapersRunError(UserError):
    """A run that does not repeat the paper's."""


def folder() -> Path:
    """Where they are kept."""
    return models.REPOSITORY / "docs" / "report" / "paper"


def keep(run_folder: Path) -> str:
    """Take the figures and the log of a finished run into the report, and return its name.

    Raises:
        NotThePapersRunError: it has not the paper's recipe in all, or not its data.
        models.ModelError, files.FileError: it is not finished, or damaged.
    """
    models.require_finished(run_folder, "log.csv")
    run, metrics = (read_json(run_folder / name) for name in ("args.json", "metrics.json"))
    for reason in _departures(run, metrics, epoch_log.read(run_folder / "log.csv")):
        raise NotThePapersRunError(f"{run_folder} is no run of the paper's: {reason}")
    name = f"{run['model']}.{run['dataset']}"
    folder().mkdir(parents=True, exist_ok=True)
    write_text(folder() / f"{name}.csv", (run_folder / "log.csv").read_text())
    write_json(folder() / f"{name}.json", {"model": run["model"], "dataset": run["dataset"], **metrics})
    return name


def _departures(run: dict[str, Any], metrics: dict[str, Any], rows: list[dict[str, float]]) -> list[str]:
    """What a run did that the paper did not. Its precision is not given there, and free."""
    if run["model"] not in paper.MODELS or run["dataset"] not in DATASETS:
        return [f"its model is {run['model']!r}, its dataset {run['dataset']!r}"]
    if run["recipe"] != "paper":
        return [f"its recipe is {run['recipe']!r}"]
    recipe = recipes.as_settings(recipes.get("paper", run["model"], run["dataset"]))
    settings = recipes.as_settings(recipes.of_settings(run["settings"]))
    found = [
        f"its {name} is {settings[name]}, the paper's {recipe[name]}"
        for name in recipe
        if name != "mixed_precision" and settings[name] != recipe[name]
    ]
    for name in ("pretrained", "teacher", "overfit", "model_kwargs"):
        if run.get(name):
            found.append(f"it has --{name.replace('_', '-')} {run[name]}")
    if len(rows) != recipe["epochs"]:
        found.append(f"its log has {len(rows)} epochs, not {recipe['epochs']}")
    images = {
        "train_images": paper.train_images(run["dataset"]),
        "test_images": sum(DATASETS[run["dataset"]].test_images),
    }
    return found + [f"its {name} are {metrics[name]:,}, not {n:,}" for name, n in images.items() if metrics[name] != n]


def read() -> Runs:
    """The runs that are kept, by dataset and model."""
    found = {}
    for file in sorted(folder().glob("*.json")):
        metrics = read_json(file)
        found[metrics["dataset"], metrics["model"]] = Record(metrics, epoch_log.read(file.with_suffix(".csv")))
    return found
