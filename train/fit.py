"""Train a model: `accelerate launch train/fit.py --model improved_googlenet --dataset cifar10 --recipe fast`.

The same command trains on a CPU, on one GPU, on several and on several machines: `accelerate config` or the flags of
`accelerate launch` say which. Plain `python train/fit.py` takes the GPU where there is one.
"""

import argparse
import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from safetensors.torch import save_model
from torch import nn

from train import records
from train.cards import provenance
from train.data import loading, reference
from train.data.preprocess import Preprocess
from train.errors import UserError
from train.files import replacing, write_json
from train.speed import convolution, graphs
from train.speed.allocator import keep_freed_memory
from train.speed.fold import fold, unfold
from train.training import checkpoint, distillation, epoch_log, interrupt, loop, measure, models, recipes, run_folder
from train.training.arguments import UsageError, model_kwargs, parse, recipe_for
from train.training.distillation import Teacher
from train.training.progress import NonFiniteLossError, Progress
from zoo.catalog import NETWORKS


def fit(args: argparse.Namespace) -> None:
    """Do what the command line asks for: see that it can be done, make the run folder, train and measure.

    Raises:
        UserError: it cannot be done, or the run folder is another run's.
    """
    recipe = recipe_for(args)
    model_name = models.tagged(args.model, args.dataset)
    title = f"{args.model}.{reference.recorded(args.dataset).tag}"
    folder = args.output_dir or Path("runs") / run_folder.name(title, args.recipe, args.seed)
    accelerator = _accelerator(args, recipe, folder)
    with accelerator.main_process_first():
        config = models.input_config(model_name)
        dataset = loading.load(args.dataset, args.data_dir, image_size=recipe.side or config["input_size"][-1])
    if args.overfit:
        few = dataset.train.spread(args.overfit)
        dataset = dataclasses.replace(dataset, train=few, validation=few)
    parts = accelerator.num_processes * args.micro_batches
    if len(dataset.train) < 2 * parts:
        raise UsageError(f"{len(dataset.train)} training images are too few for {parts} pieces: at least {2 * parts}")
    in_chans = dataset.train.images.shape[1]
    kwargs = model_kwargs(args.model_kwargs)
    model = None
    if not (args.resume and (folder / "metrics.json").is_file()):
        set_seed(args.seed)
        model = models.create(
            args.model, args.dataset, len(dataset.class_names), in_chans, args.pretrained, recipe.side, **kwargs
        )
        models.try_out(model)  # before there is a run folder, which would be one of a run that cannot be
    trained = distillation.load(args.teacher, list(dataset.class_names), in_chans) if args.teacher else None
    taught = trained and {
        **trained.identity(),
        "share": args.teacher_share or distillation.SHARE,
        "temperature": args.temperature or distillation.TEMPERATURE,
    }
    description = {
        "model": args.model,
        "model_kwargs": kwargs,
        "dataset": args.dataset,
        "class_names": list(dataset.class_names),
        "in_chans": in_chans,
        "train_images": len(dataset.train),
        "data_sha256": dataset.digest(),
        "pretrained": args.pretrained,
        "teacher": taught,
        "recipe": args.recipe,
        "settings": recipes.as_settings(recipe),
        "seed": args.seed,
        "overfit": args.overfit,
    }
    description = json.loads(json.dumps(description))  # as it will be read again
    if accelerator.is_main_process:
        earlier = [records.as_dict(run) for run in provenance.earlier_runs(model_name, args.pretrained)]
        run_folder.prepare(folder, description, args.resume, earlier)
    accelerator.wait_for_everyone()
    if model is None:
        accelerator.print(f"{folder} is complete: nothing to resume")
        return
    teacher = None
    if trained and taught:
        teacher = Teacher(trained.model, models.pretrained_cfg(model), taught["share"], taught["temperature"])
    with run_folder.alone(folder) if accelerator.is_main_process else nullcontext():
        model, progress = _train(args, recipe, accelerator, dataset, model, teacher, folder, title)
        metrics = _measure(args, accelerator, dataset, model, progress)
        if accelerator.is_main_process:
            with replacing(folder / "model.safetensors") as aside:
                save_model(model.cpu().to(memory_format=torch.contiguous_format), str(aside))
            write_json(folder / "metrics.json", metrics)
            accuracy, images = metrics["test_accuracy"], metrics["test_images"]
            print(f"Test accuracy {accuracy:.2f} % on {images:,} images; run folder {folder}")
        accelerator.end_training()


def _accelerator(args: argparse.Namespace, recipe: recipes.Recipe, folder: Path) -> Accelerator:
    """The device or devices to train on, which the run has to fit."""
    # Accelerate itself passes silently over a tracker that is not installed.
    if args.tracker and args.tracker not in map(str, get_available_trackers()):
        raise UsageError(f"--tracker {args.tracker}: not installed, try `pip install {args.tracker}`")
    try:
        accelerator = Accelerator(mixed_precision=recipe.mixed_precision, log_with=args.tracker, project_dir=folder)
    except ValueError as error:  # a precision that the device has not
        raise UsageError(str(error).splitlines()[0]) from error
    if accelerator.gradient_accumulation_steps != 1:  # else `backward` would divide by it
        raise UsageError(
            f"gradient accumulation over {accelerator.gradient_accumulation_steps} steps, as Accelerate was told, is "
            "not what this script does: --micro-batches cuts a batch into pieces, --batch-size makes it larger"
        )
    if args.cuda_graphs and accelerator.device.type != "cuda":
        raise UsageError(f"--cuda-graphs: the device is {accelerator.device}, and no CUDA GPU")
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    parts = accelerator.num_processes * args.micro_batches
    # An epoch's rest is a batch too from half of one on, and BatchNorm needs two images in each of its pieces.
    if recipe.batch_size < 4 * parts:
        flag = "--overfit" if args.overfit == recipe.batch_size else "--batch-size"
        pieces = f"{parts} {'piece' if parts == 1 else 'pieces'}"
        raise UsageError(f"{flag} {recipe.batch_size} is too small for {pieces}: at least {4 * parts}")
    return accelerator


def _train(
    args: argparse.Namespace,
    recipe: recipes.Recipe,
    accelerator: Accelerator,
    dataset: loading.Dataset,
    model: nn.Module,
    teacher: Teacher | None,
    folder: Path,
    title: str,
) -> tuple[nn.Module, Progress]:
    """The model as it is after the last epoch, and how it came there."""
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    set_seed(args.seed, device_specific=True)  # each process its own dropout
    if args.tracker:
        accelerator.init_trackers(
            "deep-image-zoo", config={"model": args.model, "dataset": args.dataset, "recipe": args.recipe}
        )
    accelerator.print(
        f"Training {title} with recipe {args.recipe!r} on {len(dataset.train):,} images of {len(dataset.class_names)} "
        f"classes ({len(dataset.validation):,} to validate, {len(dataset.test):,} to test), {recipe.epochs} epochs, "
        f"{accelerator.num_processes} x {accelerator.device}, {accelerator.mixed_precision} mixed precision; "
        f"run folder {folder}"
    )
    model, progress = loop.train(
        model,
        dataset,
        recipe,
        accelerator,
        folder,
        seed=args.seed,
        teacher=teacher,
        micro_batches=args.micro_batches,
        resume=args.resume,
        save_minutes=args.save_minutes,
        compiled=args.compile,
        cuda_graphs=args.model in NETWORKS and not args.compile if args.cuda_graphs is None else args.cuda_graphs,
        title=title,
    )
    return unfold(model), progress


def _measure(
    args: argparse.Namespace, accelerator: Accelerator, dataset: loading.Dataset, model: nn.Module, progress: Progress
) -> dict[str, Any]:
    """The run's `metrics.json`: accuracy on the test split, and what the training took."""
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    test = dataset.test.to(accelerator.device)
    with nullcontext() if args.compile else convolution.faster(model):
        logits = loop.predict(model, test, preprocess, accelerator)
    predictions, labels = logits.argmax(1).cpu().numpy(), test.labels.cpu().numpy()
    last = progress.rows[-1]
    return {
        **measure.accuracies(predictions, labels, list(dataset.class_names)),
        "validation_accuracy": last["validation_accuracy"],
        "train_accuracy": last["train_accuracy"],
        "parameters": measure.parameters(model),
        "epochs": progress.epoch,
        "seed": args.seed,
        "train_images": len(dataset.train),
        "train_seconds": progress.train_seconds,
        "images_per_second": epoch_log.images_per_second(progress.rows),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **measure.environment(accelerator.device),
        "git_commit": progress.commits[0],
        "resumed_at_commits": progress.commits[1:],
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Exit status: 2 for what the user can mend, 1 for a run that failed, 130 for one stopped."""
    interrupt.follow_launcher()
    try:
        fit(parse(argv))
    except UserError as error:
        print(f"fit.py: {error}", file=sys.stderr)
        return 2
    except (
        NonFiniteLossError,
        graphs.GraphError,
        checkpoint.CheckpointError,
        OSError,  # a full disk, say
    ) as error:
        print(f"fit.py: {error}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as error:
        print(f"fit.py: {error}; the state is saved: the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
