"""Models by name: one to train, that of a finished run, a published one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

import zoo  # noqa: F401  registers the models
from train import records
from train.data.reference import DataOptions
from train.errors import UserError
from train.files import read_json, sha256
from train.records import RunDescription, RunMetrics, TeacherRecord
from train.training import recipes, user_cards
from zoo import pretrained
from zoo.catalog import NETWORKS

# `Preprocess` in the terms of a `pretrained_cfg`.
AS_PREPROCESSED = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
# timm and torch raise these for arguments and weights that do not fit.
REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, SafetensorError)
REPOSITORY = Path(__file__).resolve().parents[2]
# Of an installed package, the user's copies of the published models: see `user_cards`.
MODEL_CARDS = user_cards.USER_CARDS if pretrained.MODEL_CARDS == pretrained.PACKAGED_CARDS else pretrained.MODEL_CARDS
# Where commands write what belongs to the project as a whole: the checkout, or the working directory.
PROJECT = REPOSITORY if (REPOSITORY / "pyproject.toml").is_file() else Path.cwd()


class ModelError(UserError):
    """A model that cannot be built or loaded."""


def tagged(name: str, dataset: str) -> str:
    """Add the dataset's tag to a model's name, where there is such a tag: it decides input channels and statistics.

    Raises:
        ModelError: timm has no model of this name, or the model has no such tag.
    """
    if not timm.is_model(name):
        raise ModelError(
            f"unknown model {name!r}: valid are {', '.join(NETWORKS)}, and any other of timm.list_models()"
        )
    architecture, _, tag = name.partition(".")
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        raise ModelError(f"unknown tag in {name!r}: valid are {', '.join(tags)}")
    full_name = f"{architecture}.{dataset}"
    return full_name if not tag and full_name in tags else name


def is_ours(name: str) -> bool:
    """Tell whether a model, by its name with or without a tag, is one of this project's networks."""
    return name.partition(".")[0] in NETWORKS


def input_config(full_name: str) -> dict[str, Any]:
    """Return the `pretrained_cfg` of a model by its name from `tagged`, without building the model."""
    cfg = timm.get_pretrained_cfg(full_name)
    assert cfg is not None  # every registered name has one
    return dict(cfg.to_dict())  # type: ignore[no-untyped-call]


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """Return a timm model's `input_size`, `mean`, `std`, `tag` and so on, which torch types as a module."""
    return cast(dict[str, Any], model.pretrained_cfg)


def create(
    name: str,
    dataset: str,
    num_classes: int,
    in_chans: int,
    weights: str | None = None,
    side: int | None = None,
    class_names: list[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model for a dataset.

    Args:
        name: of the model, with or without a tag.
        dataset: of `--dataset`; its tag is added where the model has it.
        num_classes: size of the classifier.
        in_chans: input channels.
        weights: "published", or the path of a safetensors file, a run folder or a card; None for random weights.
        side: of the square input, in pixels; None for the model's own.
        class_names: in the order of the labels. A classifier of weights that name other classes, or the same ones in
            another order, is not loaded. None loads any of this size.
        **kwargs: further arguments of `timm.create_model`.

    Raises:
        ModelError: the name is unknown, or the weights do not exist or do not fit.
    """
    full_name = tagged(name, dataset)
    kwargs |= {"num_classes": num_classes, "in_chans": in_chans, "pretrained": weights is not None}
    if weights is not None and weights != "published":
        kwargs["pretrained_cfg_overlay"] = overlay(Path(weights), full_name)
    other = (
        weights is not None and class_names is not None and classes_of(weights, full_name) not in (None, class_names)
    )
    if other:  # timm drops a classifier whose size differs from the cfg's
        kwargs["pretrained_cfg_overlay"] = {**kwargs.get("pretrained_cfg_overlay", {}), "num_classes": -1}
    try:
        model = timm.create_model(full_name, **kwargs)
    except REFUSALS as error:
        raise ModelError(f"cannot build {full_name!r}: {_reason(error)}") from error
    if other:
        pretrained_cfg(model)["num_classes"] = num_classes
    _adapt_cfg(pretrained_cfg(model), in_chans, side)
    return model


def try_out(model: nn.Module) -> None:
    """Run a new model on two images of its input size: some arguments fail only then.

    Raises:
        ModelError: it fails.
    """
    channels, height, width = pretrained_cfg(model)["input_size"]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, channels, height, width))
    except REFUSALS as error:
        raise ModelError(f"the model fails on images of {width}x{height} pixels: {_reason(error)}") from error
    model.train(training)


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())  # torch's message may have many lines
    return words[:400] if words and not isinstance(error, KeyError) else f"{type(error).__name__}: {words}"[:400]


def _adapt_cfg(cfg: dict[str, Any], in_chans: int, side: int | None) -> None:
    """Set a cfg to what `Preprocess` does, so that a transform made from it does the same.

    Where the cfg is for another number of channels, each channel gets the mean of its statistics.
    """
    cfg.update(AS_PREPROCESSED)
    _, *sides = cfg["input_size"]  # the channels may be those of a weights file: see `overlay`
    cfg["input_size"] = (in_chans, *((side, side) if side else sides))
    chans = len(cfg["mean"])
    if chans != in_chans:
        for name in ("mean", "std"):
            cfg[name] = (sum(cfg[name]) / chans,) * in_chans


def overlay(path: Path, full_name: str) -> dict[str, Any]:
    """Make the `pretrained_cfg_overlay` that loads a weights file, a run folder or a card.

    It states the classes and the input channels of the weights: timm drops a classifier of another size than the cfg's,
    and adapts a first convolution of other channels than the cfg's.

    Args:
        path: of a safetensors file, or of a folder that holds `model.safetensors`.
        full_name: of the model that gets the weights, as `tagged` gives it.

    Raises:
        ModelError: there are no weights.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"no weights at {path}: expected a safetensors file or a folder that holds model.safetensors")
    cfg = input_config(full_name)
    first_conv, classifier = (_shape(file, cfg.get(layer)) for layer in ("first_conv", "classifier"))
    found: dict[str, Any] = {"file": str(file)}
    if first_conv and first_conv[1] in (1, 3):  # some stems turn blocks of pixels into channels
        found["input_size"] = (first_conv[1], *cfg["input_size"][1:])
    if (run := file.parent / "args.json").is_file():
        found["num_classes"] = len(records.read(RunDescription, run).class_names)
    elif (card := file.parent / "config.json").is_file():
        found["num_classes"] = read_json(card)["num_classes"]
    elif classifier:
        found["num_classes"] = classifier[0]
    return found


def _shape(file: Path, layer: Any) -> list[int] | None:
    """Return the shape of a layer's weight in a safetensors file, compact or not; None where there is none."""
    try:
        with safe_open(file, framework="pt") as tensors:
            stored = {f"{layer}.weight", f"{layer}.weight.int8"} & set(tensors.keys())
            return next((list(tensors.get_slice(name).get_shape()) for name in stored), None)
    except (OSError, SafetensorError):  # another kind of file, or a damaged one: loading it says so
        return None


def classes_of(weights: str, full_name: str) -> list[str] | None:
    """Return the class names of the weights to start from, in the order of their classifier; None if unknown.

    Args:
        weights: as `create` takes them.
        full_name: of the model, as `tagged` gives it.

    Raises:
        FileError: the description of the weights is damaged.
    """
    if weights == "published":
        names = input_config(full_name).get("label_names")
        return list(names) if names else None
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    if (run := folder / "args.json").is_file():
        return records.read(RunDescription, run).class_names
    if (card := folder / "config.json").is_file():
        return read_json(card).get("label_names")
    return None


def require_finished(folder: Path, *files: str) -> None:
    """Check that a run is finished.

    Args:
        folder: of the run.
        *files: that are needed besides `args.json` and `metrics.json`.

    Raises:
        ModelError: it is not.
    """
    if missing := [name for name in ("args.json", "metrics.json", *files) if not (folder / name).is_file()]:
        raise ModelError(f"{folder} is no finished run: it has no {', '.join(missing)}")


def load_run(folder: Path) -> tuple[nn.Module, RunDescription]:
    """Load the model that a finished run left, in evaluation mode, and the run's description.

    Raises:
        ModelError: the run is not finished.
        FileError: its description is damaged.
    """
    require_finished(folder, "model.safetensors")
    run = records.read(RunDescription, folder / "args.json")
    in_chans = run.in_chans or input_config(tagged(run.model, run.dataset))["input_size"][0]
    side = recipes.of_settings(run.settings, folder / "args.json").side
    model = create(run.model, run.dataset, len(run.class_names), in_chans, str(folder), side, **run.model_kwargs)
    return model.eval(), run


def load_card(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load a published model with timm, in evaluation mode, and its `config.json`.

    Besides timm's own fields the config has `dataset`, the name, and `image_size` of the dataset's images: [H, W, C].

    Raises:
        ModelError: the folder is no published model.
    """
    try:
        config = read_json(folder / "config.json")
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        if missing := [name for name in ("label_names", "dataset", "image_size") if name not in config]:
            raise ValueError(f"its config.json has no {', '.join(missing)}")
    except KeyError as error:  # a part of a weight's compact form
        raise ModelError(f"{folder} is no published model: its weights lack {error}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} is no published model: {error}") from error
    return model.eval(), config


@dataclass(frozen=True)
class Trained:
    """A published model, or that of a finished run.

    Attributes:
        model: in evaluation mode.
        dataset: as `loading.load` takes it.
        folder: of the card or the run, with the log of the training.
        data_options: as `loading.load` takes them.
        data_dir: that a run read its dataset from, where it recorded one.
    """

    model: nn.Module
    class_names: list[str]
    dataset: str
    folder: Path
    published: bool
    data_options: DataOptions
    data_dir: str | None = None

    @property
    def title(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    def as_teacher(self, share: float, temperature: float) -> TeacherRecord:
        """Describe it as the teacher of a run, so that it is not mistaken for a later network of the same name."""
        metrics = records.read(RunMetrics, self.folder / "metrics.json")
        return TeacherRecord(
            name=self.title,
            published=self.published,
            safetensors_sha256=sha256(self.folder / "model.safetensors"),
            test_accuracy=metrics.test_accuracy,
            git_commit=metrics.git_commit,
            share=share,
            temperature=temperature,
        )


def load(name: str) -> Trained:
    """Load a published model, by name or by the path of its card, or a finished run's by the path of its folder.

    Raises:
        ModelError: there is neither.
    """
    if (Path(name) / "args.json").is_file():
        folder = Path(name)
        model, run = load_run(folder)
        options = DataOptions.of(run.data_options)
        return Trained(
            model,
            run.class_names,
            run.dataset,
            folder,
            published=False,
            data_options=options,
            data_dir=run.data_dir,
        )
    folder = card(name)
    model, config = load_card(folder)
    options = DataOptions.of(config.get("data_options", {}))
    return Trained(model, config["label_names"], config["dataset"], folder, published=True, data_options=options)


def model_cards() -> Path:
    """Return the folder of the published models; of an installed package, with up-to-date copies in it."""
    if MODEL_CARDS == user_cards.USER_CARDS:
        user_cards.refresh(pretrained.PACKAGED_CARDS, MODEL_CARDS)
    return MODEL_CARDS


def published_to() -> Path:
    """Return the folder that new cards go to; of an installed package `model_cards` in the working directory."""
    return PROJECT / "model_cards" if MODEL_CARDS == user_cards.USER_CARDS else MODEL_CARDS


def cards() -> list[Path]:
    """List the folders of all published models, also of those whose weights are missing."""
    return sorted(path.parent for path in model_cards().glob("*/README.md"))


def chosen(names: list[str]) -> list[Path]:
    """List the folders of the published models that a command names, by name or path; of all where it names none.

    Raises:
        ModelError: there is none.
    """
    folders = [card(name) for name in names] or cards()
    if not folders:
        raise ModelError(f"no published models in {MODEL_CARDS}")
    return folders


def is_card(folder: Path) -> bool:
    """Tell whether a folder holds what timm loads."""
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def card(name: str) -> Path:
    """Find the folder of a published model, by name (`improved_googlenet.mnist`) or by path.

    Raises:
        ModelError: there is none.
    """
    for folder in (model_cards() / name, Path(name)):
        if is_card(folder):
            return folder
    published = ", ".join(folder.name for folder in cards()) or "none"
    raise ModelError(f"no published model {name!r}, nor a run folder: published are {published}")
