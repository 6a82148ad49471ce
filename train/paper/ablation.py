"""The experiment that the paper left open (section 5.3): each change of sections 4 and 5.1 alone, and left out.

A variant is the vanilla network and recipe with one change added, or the improved ones without one. `train/ablate.py`
trains them; their results are kept in `docs/report/ablation/`, from which the report makes its table.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train import records
from train.errors import UserError
from train.files import write_json
from train.paper import paper, section4
from train.paper.section4 import IMPROVED, VANILLA, Change
from train.records import Ablation, AblationRun, CalibrationFit, FilesCalibration, RunDescription, RunMetrics
from train.training import models, recipes
from train.training.recipes import Recipe
from train.training.results import calibration, logits


class AblationError(UserError):
    """A network, a variant or results that the ablation cannot take."""


# Section 5.1.
TRAINING_CHANGES = (
    Change("weight-decay", "weight decay 4e-5", settings=("weight_decay",)),
    Change("smoothing", "label smoothing 0.1", settings=("label_smoothing",)),
    Change("schedule", "rate 0.01 with milestones", settings=("learning_rate", "schedule", "milestones")),
    Change("geometry", "geometric augmentation", augmentation=("flip", "rotation", "shear", "shift", "scale")),
    Change("colour", "colour augmentation", augmentation=("brightness", "contrast", "saturation")),
)


@dataclass(frozen=True)
class Variant:
    """A network and a recipe between the vanilla and the improved ones.

    Attributes:
        name: "vanilla", "vanilla+stem", "improved-stem" or "improved".
        model: to build, with `kwargs`.
        recipe: to train it with.
    """

    name: str
    model: str
    kwargs: dict[str, Any]
    recipe: Recipe


def changes(model: str, dataset: str) -> tuple[Change, ...]:
    """Return what separates a vanilla network and its training from the improved ones, in the paper's order.

    Args:
        model: the improved network.
        dataset: mnist or cifar10; the colour augmentation is for CIFAR-10 alone.

    Raises:
        AblationError: it is none of the paper's improved networks or datasets.
    """
    valid = [name for name in paper.MODELS if name.startswith("improved_")]
    if model not in valid:
        raise AblationError(f"--model {model!r}: valid are {', '.join(valid)}")
    if dataset not in paper.TABLES:
        raise AblationError(f"--dataset {dataset!r}: valid are {', '.join(paper.TABLES)}")
    vanilla, improved = _recipes(model, dataset)
    of_training = (change for change in TRAINING_CHANGES if _applied(vanilla, improved, [change]) != vanilla)
    return (*section4.CHANGES[_family(model)], *of_training)


def variants(model: str, dataset: str) -> list[Variant]:
    """List what is to be trained: vanilla, each change added to it, each left out of improved, improved.

    Args: see `changes`.

    Raises: see `changes`.
    """
    every = changes(model, dataset)
    chosen: dict[str, list[Change]] = {VANILLA: [], IMPROVED: list(every)}
    chosen |= {f"{VANILLA}+{change.name}": [change] for change in every}
    chosen |= {f"{IMPROVED}-{change.name}": [other for other in every if other is not change] for change in every}
    return [_variant(name, model, dataset, found) for name, found in chosen.items()]


def variant(model: str, dataset: str, name: str) -> Variant:
    """Return a variant by its name.

    Raises:
        AblationError: there is none of this name; and see `changes`.
    """
    found = {variant.name: variant for variant in variants(model, dataset)}
    if name not in found:
        raise AblationError(f"--variant {name!r}: valid are {', '.join(found)}")
    return found[name]


def choose(args: argparse.Namespace, network: str, name: str) -> None:
    """Make the arguments of `train/fit.py` those of a variant.

    Args:
        args: as `arguments.parse` gives them.
        network: the improved network.
        name: of the variant.

    Raises:
        AblationError: there is no such variant, or `--model` or `--recipe` contradicts it.
    """
    found = variant(network, args.dataset, name)
    for flag, given, needed in (("--model", args.model, found.model), ("--recipe", args.recipe, "paper")):
        if given != needed:
            raise AblationError(f"{flag} {given}: --variant {network} {name} needs {needed}")
    args.model_kwargs = [*(f"{key}={value!r}" for key, value in found.kwargs.items()), *args.model_kwargs]
    args.base_recipe = found.recipe


def _family(model: str) -> str:
    return model.partition("_")[2]


def _recipes(model: str, dataset: str) -> tuple[Recipe, Recipe]:
    """Return the paper's recipes of a vanilla network and of the improved one."""
    vanilla = recipes.get("paper", f"{VANILLA}_{_family(model)}", dataset)
    return vanilla, recipes.get("paper", model, dataset)


def _applied(vanilla: Recipe, improved: Recipe, chosen: list[Change]) -> Recipe:
    """Return the vanilla recipe with some changes."""
    settings = {name: getattr(improved, name) for change in chosen for name in change.settings}
    ranges = {name: getattr(improved.augmentation, name) for change in chosen for name in change.augmentation}
    return replace(vanilla, augmentation=replace(vanilla.augmentation, **ranges), **settings)


def _variant(name: str, model: str, dataset: str, chosen: list[Change]) -> Variant:
    """Build a variant of the changes that are chosen."""
    built, kwargs = section4.architecture(_family(model), chosen)
    vanilla, whole = _recipes(model, dataset)
    # The paper's recipe gives vanilla networks a side; it is the improved ones' own.
    side = whole.side if built == model else vanilla.side
    return Variant(name, built, kwargs, replace(_applied(vanilla, whole, chosen), side=side))


def folder() -> Path:
    """Return the folder of the results that the report takes in."""
    return models.PROJECT / "docs" / "report" / "ablation"


def file_name(model: str, dataset: str, epochs: int) -> str:
    """Name the file of an ablation's results."""
    return f"{model}.{dataset}.{epochs}-epochs.json"


def read_results(file: Path, model: str, dataset: str, epochs: int) -> Ablation:
    """Read what is done of an ablation; nothing is where there is no file.

    Raises:
        FileError: the file is damaged.
    """
    if not file.is_file():
        return Ablation(model=model, dataset=dataset, epochs=epochs)
    return records.read(Ablation, file)


def is_done(results: Ablation, variant: Variant, seed: int) -> bool:
    """Tell whether a variant's results are there, with the settings that it has today."""
    settings = recipes.as_settings(replace(recipes.of_length(variant.recipe, results.epochs), mixed_precision="no"))
    return any(
        run.variant == variant.name
        and run.seed == seed
        and (run.model, run.model_kwargs) == (variant.model, variant.kwargs)
        and recipes.as_settings(recipes.of_settings(run.settings | {"mixed_precision": "no"})) == settings
        for run in results.runs
    )


def add_run(file: Path, results: Ablation, variant: Variant, run_folder: Path) -> Ablation:
    """Add a finished run to the results of an ablation, in the place of an earlier one of the same variant and seed.

    Args:
        file: to write.
        results: so far.
        variant: that was trained.
        run_folder: where.

    Raises:
        FileError: the run is damaged or not finished.
        AblationError: it was trained on other images than the results' other runs.
    """
    run = records.read(RunDescription, run_folder / "args.json")
    metrics = records.read(RunMetrics, run_folder / "metrics.json")
    for other in results.runs:
        if other.train_images != metrics.train_images:
            raise AblationError(
                f"{run_folder} was trained on {metrics.train_images:,} images, the results in {file} on "
                f"{other.train_images:,}"
            )
    added = AblationRun(
        variant=variant.name,
        seed=run.seed,
        model=run.model,
        model_kwargs=run.model_kwargs,
        settings=run.settings,
        train_accuracy=metrics.train_accuracy,
        validation_accuracy=metrics.validation_accuracy,
        test_accuracy=metrics.test_accuracy,
        train_images=metrics.train_images,
        test_images=metrics.test_images,
        train_seconds=metrics.train_seconds,
        device=metrics.device,
        threads=metrics.threads,
        mixed_precision=metrics.mixed_precision,
        git_commit=metrics.git_commit,
        calibration=_calibration(run_folder, run.dataset),
    )
    order = [other.name for other in variants(results.model, results.dataset)]
    runs = [other for other in results.runs if (other.variant, other.seed) != (added.variant, added.seed)] + [added]
    runs.sort(key=lambda run: (order.index(run.variant) if run.variant in order else len(order), run.seed))
    results = replace(results, runs=runs)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, records.as_dict(results))
    return results


def _calibration(run_folder: Path, dataset: str) -> FilesCalibration | None:
    """Measure the calibration of a run on the test split; None if it left no logits.

    Raises:
        UserError: the logits are damaged.
    """
    if not (run_folder / logits.NAME).is_file():
        return None
    validation, test = logits.read(run_folder / logits.NAME)
    fitted, _ = calibration.fit(validation.logits, validation.labels, dataset)
    measured = calibration.measure(test.logits, test.labels, fitted)
    return FilesCalibration(
        **records.as_dict(measured),
        reliability=calibration.reliability(test.logits, test.labels, fitted),
        reliability_uncalibrated=calibration.reliability(test.logits, test.labels, CalibrationFit()),
    )


def complete_data(dataset: str, train_images: int) -> bool:
    """Tell whether a run has trained on all of the paper's training images, as the report's results have."""
    return train_images == paper.train_images(dataset)


def published() -> list[Ablation]:
    """Read the results that the report takes in: of each network and dataset those of the most epochs."""
    longest: dict[tuple[str, str], Ablation] = {}
    for file in sorted(folder().glob("*.json")):
        found = records.read(Ablation, file)
        if found.epochs > longest.get((found.dataset, found.model), Ablation(model="", dataset="", epochs=0)).epochs:
            longest[found.dataset, found.model] = found
    return [longest[key] for key in sorted(longest)]
