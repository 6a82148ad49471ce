"""The command line of `train/fit.py`, and the recipe that results from it."""

import argparse
import ast
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import parse_flag_from_env

from train.data import reference
from train.errors import UserError, program
from train.training import defaults, distillation, recipes
from train.training.results.predict import BATCH
from zoo.catalog import NETWORKS

# Arguments of `timm.create_model` that other flags decide, or that would leave no classifier to train.
DECIDED = (
    "model_name", "num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "checkpoint_path", "cache_dir", "features_only", "scriptable", "exportable", "no_jit", "img_size",
)  # fmt: skip
# In the help: the default of what `defaults.fitted` derives.
DERIVED = "the recipe's; other data than the paper's in full: derived from the number of images"


class UsageError(UserError):
    """Arguments that are invalid, or not possible together."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage."""
        raise UsageError(f"{message} (--help explains all options)")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line and check each value on its own.

    Raises:
        UsageError: a value is invalid.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    _check_numbers(parser, args)
    args.base_recipe = None  # in place of the one that `--recipe` names, before the other flags change it
    args.data_options = reference.DataOptions(
        image_column=args.image_column,
        label_column=args.label_column,
        split=args.split,
        validation_share=args.val_split,
        test_share=args.test_split,
        skip_unreadable=args.skip_unreadable,
    )
    if args.freeze and not args.pretrained:
        parser.error("--freeze: there are no --pretrained weights to freeze")
    # A folder becomes an absolute path: the run may be used from another working directory.
    args.dataset = reference.resolve(args.dataset).name
    if args.pretrained and args.pretrained != "published" and Path(args.pretrained).exists():
        weights = Path(args.pretrained).resolve()
        # The folder tells which run it was, and so how to repeat it.
        of_run = weights.name == "model.safetensors" and (weights.parent / "args.json").is_file()
        args.pretrained = str(weights.parent if of_run else weights)
    return args


def _parser() -> Parser:
    parser = Parser(
        prog=program("fit.py", "accelerate launch"),
        description="Train a model and leave a run folder with its weights, log, curves and metrics.",
        epilog="Example: accelerate launch train/fit.py --model improved_resnet18 --dataset cifar10 --recipe fast",
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--model", required=True, help=f"one of {', '.join(NETWORKS)}, or any of timm's")
    what.add_argument("--model-kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. aux_logits=True")
    what.add_argument(
        "--dataset",
        required=True,
        help="mnist, cifar10, a folder of images (a sub-folder for each class), or a Hub id: owner/name, or "
        "owner/name:configuration",
    )
    what.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)"
    )
    own = parser.add_argument_group("your own images")
    own.add_argument(
        "--val-split", type=float, metavar="SHARE",
        help=f"to validate on, where the dataset has no such split (default: {reference.VALIDATION_SHARE:g})",
    )  # fmt: skip
    own.add_argument(
        "--test-split", type=float, metavar="SHARE",
        help=f"to test on, where the dataset has no such split (default: {reference.TEST_SHARE:g})",
    )  # fmt: skip
    own.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    own.add_argument("--image-column", metavar="NAME", help="of a table (default: the only one, or `image`)")
    own.add_argument("--label-column", metavar="NAME", help="of a table (default: the only one, or `label`)")
    own.add_argument("--split", metavar="NAME", help="of a table, to train on (default: train)")
    what.add_argument(
        "--variant", nargs=2, metavar=("NETWORK", "NAME"),
        help="a network and recipe between the paper's vanilla and improved ones, as train/ablate.py names them",
    )  # fmt: skip
    what.add_argument(
        "--pretrained", nargs="?", const="published", metavar="PATH",
        help="start from the published weights, or from those in a safetensors file, a run folder or a card",
    )  # fmt: skip
    how = parser.add_argument_group("how to train it")
    how.add_argument("--recipe", default="fast", help="paper (its section 5.1) or fast (default: fast)")
    how.add_argument("--epochs", type=int, metavar="N", help=f"(default: {DERIVED})")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help=f"images per step over all processes (default: {DERIVED})"
    )
    how.add_argument("--learning-rate", type=float, metavar="X", help=f"(default: {DERIVED})")
    how.add_argument(
        "--full-size", action="store_true",
        help="begin at the full input size, where the recipe's images grow on the way: for weights that know it",
    )  # fmt: skip
    how.add_argument(
        "--flip", choices=["none", "horizontal"],
        help="mirror images or not (default: the recipe's for mnist and cifar10; none for other images, as the mirror "
        "image of a letter may be another one)",
    )  # fmt: skip
    how.add_argument(
        "--freeze", action="store_true", help="train the classifier alone, on the features of --pretrained weights"
    )
    how.add_argument(
        "--teacher", metavar="NAME",
        help="learn from this network's outputs too: a published model, as improved_vgg16.cifar10, or a run folder",
    )  # fmt: skip
    how.add_argument(
        "--teacher-share", type=float, metavar="X",
        help=f"weight of the teacher's outputs in the loss; the labels get the rest (default: {distillation.SHARE:g})",
    )  # fmt: skip
    how.add_argument(
        "--temperature", type=float, metavar="X",
        help=f"softmax temperature of teacher and student (default: {distillation.TEMPERATURE:g})",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    how.add_argument(
        "--overfit", type=int, metavar="N",
        help="sanity check: learn N training images by heart, with settings of its own; should end at 100 %%",
    )  # fmt: skip
    hardware = parser.add_argument_group("on what")
    hardware.add_argument(
        "--mixed-precision",
        choices=["no", "bf16", "fp16"],
        help="`no` is float32 (default: the bf16 or fp16 that `accelerate launch` was told, else the recipe's)",
    )
    hardware.add_argument(
        "--micro-batches", type=int, default=1, metavar="N", help="cut each batch into N pieces, to save memory"
    )
    hardware.add_argument(
        "--eval-batch-size", type=int, metavar="N",
        help="images that each process validates and tests on at a time (default: four times as many as it trains on "
        f"at a time, at most {BATCH}, fewer large ones)",
    )  # fmt: skip
    hardware.add_argument("--compile", action="store_true", help="compile the model (pays off on GPUs)")
    hardware.add_argument(
        "--cuda-graphs", action=argparse.BooleanOptionalAction,
        help="launch each step's kernels as one, on one GPU (default: for this project's networks, not with --compile)",
    )  # fmt: skip
    run = parser.add_argument_group("the run")
    run.add_argument("--output-dir", type=Path, metavar="DIR", help="(default: runs/MODEL.DATASET.RECIPE.seedS)")
    run.add_argument("--resume", action="store_true", help="go on from the newest state in the run folder")
    run.add_argument(
        "--save-minutes",
        type=float,
        default=10.0,
        metavar="X",
        help="time between states; at an epoch's end a tenth of it is enough (default: 10)",
    )
    run.add_argument("--tracker", choices=["tensorboard", "wandb", "mlflow", "trackio"], help="log to this one too")
    return parser


def _check_numbers(parser: Parser, args: argparse.Namespace) -> None:
    for name in ("epochs", "batch_size", "overfit", "micro_batches", "eval_batch_size"):
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
    if not 0 <= args.save_minutes < float("inf"):
        parser.error(f"--save-minutes {args.save_minutes:g}: must be 0 or more")
    if not 0 <= args.seed < 2**31:
        parser.error(f"--seed {args.seed}: must be from 0 to {2**31 - 1}")


def model_kwargs(pairs: list[str]) -> dict[str, Any]:
    """Parse ["aux_logits=True", "drop_rate=0.1"] -> {"aux_logits": True, "drop_rate": 0.1}.

    Raises:
        UsageError: one is not KEY=VALUE, its value is no JSON, or its key is not free.
    """
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


def recipe_for(
    args: argparse.Namespace,
    images: int | None = None,
    new_classifier: bool = True,
    recorded: recipes.Recipe | None = None,
    pieces: int = 1,
) -> recipes.Recipe:
    """Return the recipe, fitted to the data, with the command line's overrides.

    Args:
        args: as `parse` gives them.
        images: that are trained on; None leaves the recipe as it is.
        new_classifier: as `defaults.fitted` takes it.
        recorded: the settings of a run that is resumed, in place of those that would be derived today.
        pieces: as `defaults.fitted` takes it.
    """
    recipe = args.base_recipe or recipes.get(args.recipe, args.model, args.dataset)
    if args.epochs:
        recipe = recipes.of_length(recipe, args.epochs)
    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "learning_rate")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    mirrored = recipe.augmentation.flip if recipe.augmentation.flip != "none" else "alternating"
    if images is not None and defaults.follows_from_data(args.recipe, args.dataset, images, args.overfit):
        if recorded is not None:
            recipe = recorded
        elif args.overfit:
            recipe = defaults.by_heart(recipe, images, pieces=pieces, **given)
        else:
            recipe = defaults.fitted(
                recipe,
                dataset=args.dataset,
                images=images,
                pretrained=args.pretrained is not None,
                new_classifier=new_classifier,
                pieces=pieces,
                **given,
            )
    if args.full_size:
        changes["sizes"] = ()
    if args.flip:
        flip = mirrored if args.flip == "horizontal" else "none"
        changes["augmentation"] = dataclasses.replace(recipe.augmentation, flip=flip)
    if args.freeze:
        changes["freeze"] = True
    # `accelerate launch` sets this to "no" by default too: only another value was asked for.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    default = "no" if recipe.mixed_precision == "bf16" and emulates_bf16() else recipe.mixed_precision
    changes["mixed_precision"] = args.mixed_precision or (launched if launched != "no" else default)
    return dataclasses.replace(recipe, **changes)


def emulates_bf16() -> bool:
    """Tell whether this is a CPU without instructions for bf16, where bf16 takes ten times as long as float32."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # The one private interface of torch that is used here: no public one tells.
    return on_cpu and not (mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
