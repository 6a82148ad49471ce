"""Provenance of a network: the runs that its weights come from, and the command that trains it again."""

import shlex
from pathlib import Path

import timm

from train import records
from train.data.reference import FLAGS as DATA_FLAGS
from train.data.reference import recorded
from train.files import sha256
from train.records import CardMetrics, Earlier, RunDescription, RunMetrics, RunSettings
from train.training import defaults, models, recipes

# Settings of a recipe that a flag of train/fit.py overrides with a value; `--full-size`, `--freeze` and `--flip` are
# other such flags.
FLAGS = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "mixed_precision": "--mixed-precision",
}


def earlier_runs(full_name: str, weights: str | None) -> list[Earlier]:
    """Return the runs that produced a set of weights, the oldest first; none for random weights or a bare file.

    Of a published model this keeps what must outlive its card, which a newer one may replace; of an unpublished run
    also the settings to repeat it.

    Args:
        full_name: as `models.tagged` gives it; without a tag, the weights of the default tag are meant.
        weights: as `models.create` takes them.
    """
    if weights == "published":
        cfg = timm.get_pretrained_cfg(full_name)
        folder = models.MODEL_CARDS / f"{full_name.partition('.')[0]}.{cfg.tag if cfg else ''}"
        if not (folder / "metrics.json").is_file():  # one of timm's own models
            return []
        return _of_card(folder)
    if weights is None:
        return []
    folder = Path(weights)
    if not (folder / "args.json").is_file() and (folder / "metrics.json").is_file() and models.is_card(folder):
        return _of_card(folder)
    if not all((folder / name).is_file() for name in ("args.json", "metrics.json", "model.safetensors")):
        return []
    run = records.read(RunDescription, folder / "args.json")
    metrics = records.read(RunMetrics, folder / "metrics.json")
    return [*run.earlier, _kept(metrics, folder, sha256(folder / "model.safetensors"), _without_paths(run))]


def _of_card(folder: Path) -> list[Earlier]:
    """Return the runs that led to a card's weights."""
    card = records.read(CardMetrics, folder / "metrics.json")
    return [*card.earlier, _kept(card, folder, card.safetensors_sha256)]


def _kept(metrics: RunMetrics, folder: Path, safetensors_sha256: str, run: RunSettings | None = None) -> Earlier:
    """Return what is kept of a run."""
    return Earlier(
        name=folder.resolve().name,
        epochs=metrics.epochs,
        train_seconds=metrics.train_seconds,
        test_accuracy=metrics.test_accuracy,
        git_commit=metrics.git_commit,
        safetensors_sha256=safetensors_sha256,
        run=run,
    )


def _without_paths(run: RunSettings) -> RunSettings:
    """Return a run's settings with the names of folders instead of their paths, which mean nothing elsewhere."""

    def name(path: str) -> str:
        return Path(path).resolve().name if Path(path).exists() else path

    return RunSettings(
        model=run.model,
        model_kwargs=run.model_kwargs,
        dataset=name(run.dataset),
        recipe=run.recipe,
        settings=run.settings,
        seed=run.seed,
        overfit=run.overfit,
        pretrained=run.pretrained and name(run.pretrained),
        teacher=run.teacher,
        data_options=run.data_options,
        train_images=run.train_images,
    )


def changed_settings(run: RunSettings) -> set[str]:
    """Return the settings in which a run differs from today's recipe of the same name, fitted to as many images."""
    # Compared as JSON values: a run's settings hold lists where a recipe holds tuples.
    before = recipes.as_settings(recipes.of_settings(run.settings))
    now = recipes.as_settings(defaults.of_run(run))
    changed = {"batch_size"} if before["batch_size"] != now["batch_size"] else set()
    # Other settings follow from the batch size.
    fitted = defaults.of_run(run, batch_size=before["batch_size"])
    now = recipes.as_settings(fitted)
    now["milestones"] = recipes.as_settings(recipes.of_length(fitted, before["epochs"]))["milestones"]
    changed |= {name for name in now if before[name] != now[name]}
    if run.pretrained:
        changed -= {"fit_classifier"}  # it follows from the classes of the weights
    if before["freeze"]:
        changed -= {"freeze"}  # `command` says so
    if before["augmentation"] | {"flip": None} == now["augmentation"] | {"flip": None}:
        changed = changed - {"augmentation"} | ({"flip"} if "augmentation" in changed else set())
    return changed


def changed_beyond_flags(run: RunSettings) -> set[str]:
    """Return those of the changed settings that no flag of train/fit.py restores."""
    beyond = changed_settings(run) - FLAGS.keys() - {"flip"}
    return beyond - {"sizes"} if _full_size(run) else beyond


def _full_size(run: RunSettings) -> bool:
    """Tell whether a run used the full input size from its first epoch on."""
    return not recipes.of_settings(run.settings).sizes


def command(run: RunSettings) -> str:
    """Return the command that trains a network again.

    It assumes that the recipe is what it was for the run, apart from the settings that its flags override.
    """
    changed, beyond_flags = changed_settings(run), changed_beyond_flags(run)
    words = ["--model", run.model]
    if run.model_kwargs:
        words += ["--model-kwargs", *(f"{key}={value!r}" for key, value in run.model_kwargs.items())]
    words += ["--dataset", run.dataset, "--recipe", run.recipe]
    for name, value in run.data_options.items():
        words += [DATA_FLAGS[name], *([] if value is True else [str(value)])]
    for name, flag in FLAGS.items():
        # After a `git checkout` the flags override the recipe of that commit, which is not known here.
        if name in changed or beyond_flags:
            words += [flag, str(run.settings[name])]
    words += [*_switches(run, changed), "--seed", str(run.seed)]
    if run.overfit:
        words += ["--overfit", str(run.overfit)]
    if run.pretrained:
        words += ["--pretrained", *([] if run.pretrained == "published" else [run.pretrained])]
    if teacher := run.teacher:
        words += ["--teacher", teacher.name]
        words += ["--teacher-share", f"{teacher.share:g}", "--temperature", f"{teacher.temperature:g}"]
    return f"accelerate launch train/fit.py {shlex.join(words)}"


def _switches(run: RunSettings, changed: set[str]) -> list[str]:
    """Return the flags for settings that are no numbers."""
    words = ["--full-size"] if _full_size(run) and "sizes" in changed else []
    if "flip" in changed:
        words += ["--flip", "none" if run.settings["augmentation"]["flip"] == "none" else "horizontal"]
    if run.settings.get("freeze"):
        words.append("--freeze")
    return words


def fine_tuned(metrics: CardMetrics) -> bool:
    """Tell whether a network started from weights of other images, so that its training was a fine-tuning of these."""
    if not metrics.earlier:
        return metrics.pretrained is not None
    last = metrics.earlier[-1]
    if last.run is not None:
        return last.run.dataset != metrics.dataset
    return last.name.partition(".")[2] != recorded(metrics.dataset).tag


def replaces_its_start(metrics: CardMetrics) -> bool:
    """Tell whether a network started from published weights of its own name, which it has replaced."""
    own = f"{metrics.model.partition('.')[0]}.{recorded(metrics.dataset).tag}"
    return metrics.pretrained == "published" and bool(metrics.earlier) and metrics.earlier[-1].name == own
