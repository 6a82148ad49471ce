"""Train a model: `accelerate launch train/fit.py --model improved_googlenet --dataset cifar10 --recipe fast`.

The same command trains on a CPU, on one GPU, on several and on several machines: `accelerate config` or the flags of
`accelerate launch` say which. Plain `python train/fit.py` takes the GPU where there is one.
"""

import argparse
import ast
import dataclasses
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import parse_flag_from_env, set_seed
from safetensors.torch import save_model

from train import checkpoint, convolution, data, distillation, graphs, interrupt, loop, measure, models, recipes
from train.allocator import keep_freed_memory
from train.distillation import Teacher
from train.files import replacing, write_json
from train.fold import fold, unfold
from train.preprocess import Preprocess
from train.progress import NonFiniteLossError

# What `timm.create_model` is told from elsewhere, or what would leave no classifier to train.
DECIDED = (
    "model_name", "num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "checkpoint_path", "cache_dir", "features_only", "scriptable", "exportable", "no_jit",
)  # fmt: skip
# That another process may take to save its state and end, once it was told to.
LAST_SAVE_SECONDS = 60


class UsageError(ValueError):
    """Arguments that cannot be followed; its message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """One that leaves the usage to --help: a mistake gets one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help explains all options)")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        prog="accelerate launch train/fit.py",
        description="Train a model and leave a run folder with its weights, log, curves and figures.",
        epilog="Example: accelerate launch train/fit.py --model improved_resnet18 --dataset cifar10 --recipe fast",
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--model", required=True, help=f"one of {', '.join(models.ZOO)}, or any of timm's")
    what.add_argument("--model-kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. aux_logits=True")
    what.add_argument(
        "--dataset",
        required=True,
        help="mnist, cifar10, a folder of pictures (a sub-folder for each class), or a Hub id: owner/name, or "
        "owner/name:configuration",
    )
    what.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)"
    )
    what.add_argument(
        "--pretrained", nargs="?", const="published", metavar="PATH",
        help="start from the published weights, or from those in a safetensors file or run folder",
    )  # fmt: skip
    how = parser.add_argument_group("how to train it")
    how.add_argument("--recipe", default="fast", help="paper (its section 5.1) or fast (default)")
    how.add_argument("--epochs", type=int, metavar="N", help="default: the recipe's")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="images per step over all processes; default: the recipe's"
    )
    how.add_argument("--learning-rate", type=float, metavar="X", help="default: the recipe's")
    how.add_argument(
        "--teacher", metavar="NAME",
        help="learn from this network's opinion too: a published model, as improved_vgg16.cifar10, or a run folder",
    )  # fmt: skip
    how.add_argument(
        "--teacher-share", type=float, metavar="X",
        help=f"of its opinion in the loss, the rest is the labels'; default: {distillation.SHARE:g}",
    )  # fmt: skip
    how.add_argument(
        "--temperature", type=float, metavar="X",
        help=f"what its logits and the network's are divided by to compare them; default: {distillation.TEMPERATURE:g}",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    how.add_argument(
        "--overfit", type=int, metavar="N", help="sanity check: learn the first N images by heart, unaugmented"
    )
    hardware = parser.add_argument_group("on what")
    hardware.add_argument(
        "--mixed-precision",
        choices=["no", "bf16", "fp16"],
        help="default: the bf16 or fp16 that `accelerate launch` was told, else the recipe's; float32 is `no` here",
    )
    hardware.add_argument(
        "--micro-batches", type=int, default=1, metavar="N", help="cut each batch into N pieces, to save memory"
    )
    hardware.add_argument("--compile", action="store_true", help="compile the model (pays off on GPUs)")
    hardware.add_argument(
        "--cuda-graphs", action=argparse.BooleanOptionalAction,
        help="launch each step's kernels as one, on one GPU; default: for this project's networks, without --compile",
    )  # fmt: skip
    run = parser.add_argument_group("the run")
    run.add_argument("--output-dir", type=Path, metavar="DIR", help="default: runs/<model>.<dataset>.<recipe>.seed<S>")
    run.add_argument("--resume", action="store_true", help="go on from the newest state in the run folder")
    run.add_argument(
        "--save-minutes",
        type=float,
        default=10.0,
        metavar="X",
        help="time between states; at an epoch's end a tenth of it is enough; default: 10",
    )
    run.add_argument("--tracker", choices=["tensorboard", "wandb", "mlflow", "trackio"], help="also log there")
    args = parser.parse_args(argv)
    for name in ("epochs", "batch_size", "overfit", "micro_batches"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if args.learning_rate is not None and not 0 < args.learning_rate < float("inf"):
        parser.error(f"--learning-rate {args.learning_rate}: must be a positive number")
    for name in ("teacher_share", "temperature"):
        if getattr(args, name) is not None and args.teacher is None:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name):g}: there is no --teacher")
    if args.teacher_share is not None and not 0 < args.teacher_share <= 1:
        parser.error(f"--teacher-share {args.teacher_share:g}: must be above 0 and at most 1")
    if args.temperature is not None and not 0 < args.temperature < float("inf"):
        parser.error(f"--temperature {args.temperature:g}: must be a positive number")
    if not 0 <= args.seed < 2**31:
        parser.error(f"--seed {args.seed}: must be from 0 to {2**31 - 1}")
    # The paper's datasets by their Hub ids are the paper's: with their statistics, split and augmentation.
    args.dataset = {hub_id: name for name, hub_id in data.HUB_IDS.items()}.get(args.dataset, args.dataset)
    return args


def model_kwargs(pairs: list[str]) -> dict[str, Any]:
    """["aux_logits=True", "drop_rate=0.1"] -> {"aux_logits": True, "drop_rate": 0.1}"""
    kwargs = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"--model-kwargs {pair!r}: must be KEY=VALUE, as in aux_logits=True")
        try:
            kwargs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            kwargs[key] = value
        if key in DECIDED:
            raise UsageError(f"--model-kwargs {pair!r}: {key} cannot be chosen; not free are {', '.join(DECIDED)}")
        try:
            json.dumps(kwargs[key])
        except TypeError as error:
            raise UsageError(f"--model-kwargs {pair!r}: must be a number, a word, or a list of them") from error
    return kwargs


def recipe_for(args: argparse.Namespace) -> recipes.Recipe:
    """The recipe with the command line's overrides."""
    recipe = recipes.get(args.recipe, args.model, args.dataset)
    changes = {name: getattr(args, name) for name in ("epochs", "batch_size", "learning_rate")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.overfit:
        changes["augmentation"] = recipes.Augmentation()
        changes["batch_size"] = min(args.overfit, changes.get("batch_size", recipe.batch_size))
    # `accelerate launch` sets this to "no" also where nobody asked for it: only another value is a wish.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    default = "no" if recipe.mixed_precision == "bf16" and emulates_bf16() else recipe.mixed_precision
    changes["mixed_precision"] = args.mixed_precision or (launched if launched != "no" else default)
    return dataclasses.replace(recipe, **changes)


def emulates_bf16() -> bool:
    """Whether this is a CPU that has no instructions for bf16: it would take ten times as long as in float32."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    mkldnn = torch.backends.mkldnn.is_available()
    return on_cpu and not (mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepare_folder(folder: Path, description: dict[str, Any], resume: bool, earlier: list[dict[str, Any]]) -> None:
    """Make the run folder, or see that the one to resume is of the same run.

    Args:
        earlier: what `models.earlier_runs` tells of the weights to start from; when a run is resumed, others may be
            published in their place.

    Raises:
        UsageError: the folder holds another run, or one that nobody asked to resume.
    """
    file = folder / "args.json"
    if file.is_file():
        if not resume:
            raise UsageError(
                f"{folder} holds a run already: add --resume to go on with it, or choose another --output-dir"
            )
        try:
            before = json.loads(file.read_text())
        except ValueError as error:
            raise UsageError(f"cannot resume {folder}: its args.json is damaged ({error})") from error
        for key, was, now in _differing(before, description):
            raise UsageError(f"cannot resume {folder}: its {key} was {json.dumps(was)}, now it is {json.dumps(now)}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run: choose another --output-dir")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {**description, "earlier": earlier})


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values of what differs; keys that an older version did not write are none."""
    for key, value in now.items():
        was = before.get(key, value)
        if isinstance(was, dict) and isinstance(value, dict) and key == "settings":
            yield from _differing(was, value)
        elif was != value:
            yield key, was, value


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others out of a run folder: two that save their states there delete each other's.

    Raises:
        UsageError: another process trains there, and has not ended in the time that saving takes.
    """
    with (folder / "args.json").open() as file:
        end = time.monotonic() + LAST_SAVE_SECONDS
        told = False
        while not _locked(file):
            if time.monotonic() > end:
                raise UsageError(
                    f"another process trains in {folder}: wait for its end, or choose another --output-dir"
                )
            if not told:
                print(f"Another process has {folder}: waiting for it to save and end", flush=True)
                told = True
            time.sleep(0.1)
        yield  # closing the file gives it free, as the end of the process does


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fit(args: argparse.Namespace) -> None:
    recipe = recipe_for(args)
    model_name = models.tagged(args.model, args.dataset)
    is_folder = args.dataset not in data.HUB_IDS and Path(args.dataset).is_dir()
    title = f"{args.model}.{data.tag(Path(args.dataset).resolve().name if is_folder else args.dataset)}"
    folder = args.output_dir or Path("runs") / f"{title}.{args.recipe}.seed{args.seed}"
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
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    parts = accelerator.num_processes * args.micro_batches
    if recipe.batch_size < 4 * parts:
        flag = "--overfit" if args.overfit == recipe.batch_size else "--batch-size"
        pieces = f"{parts} {'piece' if parts == 1 else 'pieces'}"
        raise UsageError(f"{flag} {recipe.batch_size} is too small for {pieces}: at least {4 * parts}")
    with accelerator.main_process_first():
        config = models.input_config(model_name)
        dataset = data.load(args.dataset, args.data_dir, image_size=config["input_size"][-1])
    if args.overfit:
        few = dataset.train.take(slice(args.overfit))
        dataset = dataclasses.replace(dataset, train=few, validation=few)
    in_chans = dataset.train.images.shape[1]
    teacher, taught = None, None
    if args.teacher:
        teacher = distillation.load(args.teacher, list(dataset.class_names), in_chans)
        taught = {
            **teacher.identity(),
            "share": args.teacher_share or distillation.SHARE,
            "temperature": args.temperature or distillation.TEMPERATURE,
        }
    description = {
        "model": args.model,
        "model_kwargs": model_kwargs(args.model_kwargs),
        "dataset": args.dataset,
        "class_names": list(dataset.class_names),
        "in_chans": in_chans,
        "train_images": len(dataset.train),
        "data_sha256": dataset.digest(),
        "pretrained": args.pretrained,
        "teacher": taught,
        "recipe": args.recipe,
        "settings": dataclasses.asdict(recipe),
        "seed": args.seed,
        "overfit": args.overfit,
    }
    description = json.loads(json.dumps(description))  # as it will be read again
    if accelerator.is_main_process:
        prepare_folder(folder, description, args.resume, models.earlier_runs(model_name, args.pretrained))
    accelerator.wait_for_everyone()
    if args.resume and (folder / "metrics.json").is_file():
        accelerator.print(f"{folder} is complete: nothing to resume")
        return
    with alone(folder) if accelerator.is_main_process else nullcontext():
        _fit(args, recipe, accelerator, dataset, teacher, description, folder, title)


def _fit(
    args: argparse.Namespace,
    recipe: recipes.Recipe,
    accelerator: Accelerator,
    dataset: data.Dataset,
    teacher: models.Trained | None,
    description: dict[str, Any],
    folder: Path,
    title: str,
) -> None:
    """Train, and leave weights and figures; `fit` has seen to it that this can be done."""
    set_seed(args.seed)
    model = models.create(
        args.model,
        args.dataset,
        num_classes=len(dataset.class_names),
        in_chans=description["in_chans"],
        weights=args.pretrained,
        **description["model_kwargs"],
    )
    cfg = models.pretrained_cfg(model)
    taught_by = None
    if teacher:
        taught = description["teacher"]
        taught_by = Teacher(teacher.model, cfg, taught["share"], taught["temperature"])
    model = fold(model, cfg["input_size"], to_train=True)
    set_seed(args.seed, device_specific=True)  # each process its own dropout
    if args.tracker:
        accelerator.init_trackers(
            "deep-image-zoo", config={"model": args.model, "dataset": args.dataset, "recipe": args.recipe}
        )
    accelerator.print(
        f"Training {title} with recipe {args.recipe!r} on {len(dataset.train):,} images, {recipe.epochs} epochs, "
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
        teacher=taught_by,
        micro_batches=args.micro_batches,
        resume=args.resume,
        save_minutes=args.save_minutes,
        compiled=args.compile,
        cuda_graphs=args.model in models.ZOO and not args.compile if args.cuda_graphs is None else args.cuda_graphs,
        title=title,
    )

    model = unfold(model)
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    test = dataset.test.to(accelerator.device)
    with nullcontext() if args.compile else convolution.faster(model):
        logits = loop.predict(model, test, preprocess, accelerator)
    predictions, labels = logits.argmax(1).cpu().numpy(), test.labels.cpu().numpy()
    last = progress.rows[-1]
    metrics = {
        **measure.accuracies(predictions, labels, list(dataset.class_names)),
        "validation_accuracy": last["validation_accuracy"],
        "train_accuracy": last["train_accuracy"],
        "parameters": measure.parameters(model),
        "epochs": progress.epoch,
        "seed": args.seed,
        "train_images": len(dataset.train),
        "train_seconds": progress.train_seconds,
        "images_per_second": progress.epoch * len(dataset.train) / progress.train_seconds,
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **measure.environment(accelerator.device),
        "git_commit": progress.commits[0],
        "resumed_at_commits": progress.commits[1:],
    }
    if accelerator.is_main_process:
        with replacing(folder / "model.safetensors") as aside:
            save_model(model.cpu().to(memory_format=torch.contiguous_format), str(aside))
        write_json(folder / "metrics.json", metrics)
        print(
            f"Test accuracy {metrics['test_accuracy']:.2f} % on {metrics['test_images']:,} images; run folder {folder}"
        )
    accelerator.end_training()


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Exit status: 2 for what the user can mend, 1 for a run that failed, 130 for one stopped."""
    interrupt.follow_launcher()
    try:
        fit(parse(argv))
    except (UsageError, recipes.RecipeError, data.DataError, models.ModelError) as error:
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
