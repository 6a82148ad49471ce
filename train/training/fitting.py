"""What `train/fit.py` does: check that the run is possible, claim its folder, train, measure, save."""

import argparse
import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from train import records
from train.data import loading
from train.data.preprocess import Preprocess
from train.data.reference import recorded
from train.files import atomic_write, why_unwritable
from train.records import BestEpoch, Earlier, RunDescription, RunMetrics
from train.speed import convolution
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold, unfold
from train.training import defaults, distillation, fine_tuning, loop, models, recipes
from train.training.arguments import UsageError, model_kwargs, recipe_for
from train.training.averaging import SHARE
from train.training.distillation import Teacher
from train.training.progress import Progress
from train.training.results import logits, measure
from train.training.results.logits import Logits
from train.training.results.predict import following_batch, predict
from train.training.runs import checkpoint, epoch_log, run_folder
from train.training.runs.best import best_row


def fit(args: argparse.Namespace, earlier: list[Earlier], export_problem: Callable[[nn.Module], str | None]) -> None:
    """Train a model as the command line asks, and leave its run folder.

    Args:
        args: as `arguments.parse` gives them.
        earlier: the runs that produced the weights of `--pretrained`.
        export_problem: says why a model cannot be exported to ONNX.

    Raises:
        UserError: it is not possible, or the run folder belongs to another run.
    """
    recipe = recipe_for(args)  # as far as it is known before the data are
    title = f"{args.model}.{recorded(args.dataset).tag}"
    folder = args.output_dir or Path("runs") / run_folder.name(title, args.recipe, args.seed)
    accelerator = make_accelerator(args, recipe, folder)
    dataset = load_dataset(args, recipe, accelerator)
    recipe = fit_recipe(args, folder, dataset, accelerator)
    class_names, in_chans = list(dataset.class_names), dataset.train.images.shape[1]
    kwargs = model_kwargs(args.model_kwargs)

    complete = args.resume and (folder / "metrics.json").is_file()
    if not complete:  # a complete run needs no weights to start from, which may be gone by now
        set_seed(args.seed)
        model = models.create(
            args.model, args.dataset, len(class_names), in_chans, args.pretrained, recipe.side, class_names, **kwargs
        )
        _say_whose_classifier(args, class_names, accelerator)
        if recipe.freeze:
            fine_tuning.freeze(model)
        models.try_out(model)  # before there is a folder, which would hold a run that cannot be
        if accelerator.is_main_process:
            _warn_of_export(args, model, export_problem)
    trained = distillation.load(args.teacher, class_names, in_chans) if args.teacher else None
    share, temperature = args.teacher_share or distillation.SHARE, args.temperature or distillation.TEMPERATURE
    description = RunDescription(
        model=args.model,
        model_kwargs=kwargs,
        dataset=args.dataset,
        class_names=class_names,
        in_chans=in_chans,
        data_dir=loading.recorded_data_dir(args.dataset, args.data_dir),
        train_images=len(dataset.train),
        data_sha256=dataset.digest(),
        pretrained=args.pretrained,
        teacher=trained.as_teacher(share, temperature) if trained else None,
        recipe=args.recipe,
        settings=recipes.as_settings(recipe),
        seed=args.seed,
        overfit=args.overfit,
        data_options=args.data_options.as_dict(),
        earlier=earlier,
    )
    if complete:
        run_folder.check(folder, description, args.resume, dataset.files)
        accelerator.print(f"{folder} is complete: nothing to resume")
        return

    teacher = Teacher(trained.model, models.pretrained_cfg(model), share, temperature) if trained else None
    claimed = run_folder.claimed(folder, description, args.resume, dataset.files)
    with claimed if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        model, best_model, progress = train(args, recipe, accelerator, dataset, model, teacher, folder, title)
        evaluated = eval_batch_size(args, recipe, accelerator, model)
        tested = split_logits(args, accelerator, dataset.test, model, evaluated)
        validated = split_logits(args, accelerator, dataset.validation, model, evaluated)
        metrics = gather(args, accelerator, dataset, model, progress, tested)
        if best_model is not None:
            best = test_best(args, accelerator, dataset, best_model, progress, evaluated)
            metrics = dataclasses.replace(metrics, best=best)
        if accelerator.is_main_process:
            if best_model is not None:
                save_weights(best_model, folder / "model.best.safetensors")
            save_weights(model, folder / "model.safetensors")
            logits.write(folder / logits.NAME, validated, tested)
            records.write(metrics, folder / "metrics.json")
            print(f"Test accuracy {metrics.test_accuracy:.2f} % on {metrics.test_images:,} images; run folder {folder}")
            if metrics.best and metrics.best.validation_accuracy > metrics.validation_accuracy:
                print(
                    f"Best epoch on validation: {metrics.best.epoch} with {metrics.best.validation_accuracy:.2f} % "
                    f"(the last: {metrics.validation_accuracy:.2f} %); test accuracy {metrics.best.test_accuracy:.2f} "
                    "%; weights in model.best.safetensors"
                )
        accelerator.end_training()


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's weights.

    Raises:
        CheckpointError: they cannot be written.
    """
    try:
        with atomic_write(file) as temporary:
            save_model(model.cpu().to(memory_format=torch.contiguous_format), str(temporary))
    except (OSError, SafetensorError) as error:
        raise checkpoint.CheckpointError(f"cannot write {file}: {why_unwritable(file.parent) or error}") from error


def make_accelerator(args: argparse.Namespace, recipe: recipes.Recipe, folder: Path) -> Accelerator:
    """Set up the device or devices to train on.

    Raises:
        UsageError: the run does not fit them.
    """
    # Accelerate itself silently ignores a tracker that is not installed.
    if args.tracker and args.tracker not in map(str, get_available_trackers()):
        raise UsageError(f"--tracker {args.tracker}: not installed, try `pip install {args.tracker}`")
    try:
        accelerator = Accelerator(mixed_precision=recipe.mixed_precision, log_with=args.tracker, project_dir=folder)
    except ValueError as error:  # a precision that the device does not support
        raise UsageError(str(error).splitlines()[0]) from error
    if accelerator.gradient_accumulation_steps != 1:  # `backward` would divide by it
        raise UsageError(
            f"gradient accumulation over {accelerator.gradient_accumulation_steps} steps, as Accelerate was told, is "
            "not what this script does: --micro-batches cuts a batch into pieces, --batch-size makes it larger"
        )
    if args.cuda_graphs and accelerator.device.type != "cuda":
        raise UsageError(f"--cuda-graphs: the device is {accelerator.device}, and no CUDA GPU")
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def fit_recipe(
    args: argparse.Namespace, folder: Path, dataset: loading.Dataset, accelerator: Accelerator
) -> recipes.Recipe:
    """Fit the recipe to the data, and say what was derived; a run that is resumed keeps what it recorded.

    Raises:
        UserError: the run is not possible with it, or the description of the run to resume is damaged.
    """
    images, file, recorded, new_classifier = len(dataset.train), folder / "args.json", None, True
    if args.resume and file.is_file():
        recorded = recipes.of_settings(records.read(RunDescription, file).settings, file)
    elif args.pretrained:
        names = models.classes_of(args.pretrained, models.tagged(args.model, args.dataset))
        new_classifier = names != list(dataset.class_names)
    parts = accelerator.num_processes * args.micro_batches
    recipe = recipe_for(args, images, new_classifier, recorded, parts)
    if recipe.batch_size < (least := defaults.least_batch(parts)):
        pieces = f"{parts} {'piece' if parts == 1 else 'pieces'}"
        raise UsageError(f"--batch-size {recipe.batch_size} is too small for {pieces}: at least {least}")
    if recorded is None:
        if defaults.follows_from_data(args.recipe, args.dataset, images, args.overfit):
            accelerator.print(defaults.in_words(recipe, images, bool(args.pretrained), bool(args.overfit)))
        if warning := defaults.warning(recipe, images):
            accelerator.print(warning)
    return recipe


def load_dataset(args: argparse.Namespace, recipe: recipes.Recipe, accelerator: Accelerator) -> loading.Dataset:
    """Load the images; with `--overfit`, a few of them to train and validate on.

    Raises:
        UserError: there is no such model or dataset, or it has too few images.
    """
    with accelerator.main_process_first():
        config = models.input_config(models.tagged(args.model, args.dataset))
        side = recipe.side or config["input_size"][-1]
        dataset = loading.load(args.dataset, args.data_dir, side, args.data_options)
    accelerator.print(dataset.summary())
    if args.overfit:
        few = dataset.train.spread(args.overfit)
        dataset = dataclasses.replace(dataset, train=few, validation=few)
    parts = accelerator.num_processes * args.micro_batches
    if len(dataset.train) < 2 * parts:
        raise UsageError(f"{len(dataset.train)} training images are too few for {parts} pieces: at least {2 * parts}")
    return dataset


def _warn_of_export(
    args: argparse.Namespace, model: nn.Module, export_problem: Callable[[nn.Module], str | None]
) -> None:
    """Say before the training where its result cannot be published; the project's own networks can."""
    if args.resume or args.overfit or models.is_ours(args.model):
        return
    if problem := export_problem(model):
        print(
            f"Warning: {args.model} cannot be exported to ONNX, so it can be trained and evaluated, but neither "
            f"published nor served: {problem}",
            flush=True,
        )


def _say_whose_classifier(args: argparse.Namespace, class_names: list[str], accelerator: Accelerator) -> None:
    """Say so where pretrained weights are of other classes, whose classifier is not taken over."""
    if not args.pretrained:
        return
    theirs = models.classes_of(args.pretrained, models.tagged(args.model, args.dataset))
    if theirs not in (None, class_names):
        same = (
            "the same classes in another order" if theirs and sorted(theirs) == sorted(class_names) else "other classes"
        )
        accelerator.print(f"The weights of --pretrained are for {same}: the classifier is a new one")


def train(
    args: argparse.Namespace,
    recipe: recipes.Recipe,
    accelerator: Accelerator,
    dataset: loading.Dataset,
    model: nn.Module,
    teacher: Teacher | None,
    folder: Path,
    title: str,
) -> tuple[nn.Module, nn.Module | None, Progress]:
    """Train the model; return it as it is after the last epoch and after the best, and the run's progress.

    The best is None where a run was resumed whose best weights were lost.
    """
    evaluated = eval_batch_size(args, recipe, accelerator, model)
    if recipe.fit_classifier:
        fine_tuning.fit_classifier(model, dataset.train, recipe.label_smoothing, accelerator.device, evaluated)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    if recipe.freeze:
        fine_tuning.freeze(model)  # the folded layer too
    set_seed(args.seed, device_specific=True)  # each process its own dropout
    if args.tracker:
        config = {"model": args.model, "dataset": args.dataset, "recipe": args.recipe}
        accelerator.init_trackers("deep-image-zoo", config=config)
    accelerator.print(
        f"Training {title} with recipe {args.recipe!r} on {len(dataset.train):,} images of {len(dataset.class_names)} "
        f"classes ({len(dataset.validation):,} to validate, {len(dataset.test):,} to test), {recipe.epochs} epochs, "
        f"{accelerator.num_processes} x {accelerator.device}, {accelerator.mixed_precision} mixed precision; "
        f"run folder {folder}"
    )
    options = loop.Options(
        seed=args.seed,
        micro_batches=args.micro_batches,
        eval_batch_size=evaluated,
        resume=args.resume,
        save_minutes=args.save_minutes,
        compiled=args.compile,
        cuda_graphs=models.is_ours(args.model) and not args.compile if args.cuda_graphs is None else args.cuda_graphs,
        title=title,
    )
    run = loop.Run(model, dataset, recipe, accelerator, folder, options, teacher)
    if run.start_accuracy is not None:
        accelerator.print(f"The classifier on frozen features has a validation accuracy of {run.start_accuracy:.2f} %")
    last, best = run.train(), None
    if (share := run.progress.rows[-1].get(SHARE)) is not None:
        accelerator.print(
            f"Kept {100 * share:.0f} % of the way from the classifier on frozen features to the trained weights, "
            "the best on validation"
        )
    if run.best.row is best_row(run.progress.rows):
        best = copy.deepcopy(last)
        best.load_state_dict(run.best.weights)
        best = unfold(best)
    return unfold(last), best, run.progress


def eval_batch_size(
    args: argparse.Namespace, recipe: recipes.Recipe, accelerator: Accelerator, model: nn.Module
) -> int:
    """Return how many images each process evaluates at a time: as `--eval-batch-size` says, or by the training's."""
    _, height, width = models.pretrained_cfg(model)["input_size"]
    trained = -(-recipe.batch_size // (accelerator.num_processes * args.micro_batches))
    return int(args.eval_batch_size or following_batch((height, width), trained))


def gather(
    args: argparse.Namespace,
    accelerator: Accelerator,
    dataset: loading.Dataset,
    model: nn.Module,
    progress: Progress,
    tested: Logits,
) -> RunMetrics:
    """Gather the metrics on the test split, from its logits, and what the training took."""
    last = progress.rows[-1]
    return RunMetrics(
        **measure.accuracies(tested.logits, tested.labels, list(dataset.class_names)),
        validation_accuracy=last["validation_accuracy"],
        train_accuracy=last["train_accuracy"],
        parameters=measure.parameters(model),
        epochs=progress.epoch,
        seed=args.seed,
        train_images=len(dataset.train),
        train_seconds=progress.train_seconds,
        images_per_second=epoch_log.images_per_second(progress.rows),
        processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
        **measure.environment(accelerator.device),
        git_commit=progress.commits[0],
        resumed_at_commits=progress.commits[1:],
    )


def test_best(
    args: argparse.Namespace,
    accelerator: Accelerator,
    dataset: loading.Dataset,
    model: nn.Module,
    progress: Progress,
    evaluated: int,
) -> BestEpoch:
    """Measure the best epoch's model on the test split, `evaluated` images at a time."""
    row = best_row(progress.rows)
    tested = split_logits(args, accelerator, dataset.test, model, evaluated)
    right = tested.logits.argmax(1) == tested.labels
    return BestEpoch(
        epoch=int(row["epoch"]),
        validation_accuracy=row["validation_accuracy"],
        validation_loss=row["validation_loss"],
        test_accuracy=round(100 * float(right.sum()) / len(right), 4),
    )


def split_logits(
    args: argparse.Namespace, accelerator: Accelerator, split: loading.Split, model: nn.Module, evaluated: int
) -> Logits:
    """Compute a trained model's logits of a split, `evaluated` images at a time."""
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    with nullcontext() if args.compile else convolution.faster(model):
        found = predict(model, split.to(accelerator.device), preprocess, accelerator, evaluated)
    return Logits(found.cpu().numpy(), split.labels.cpu().numpy())
