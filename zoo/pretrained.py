"""What all networks share: timm's `default_cfgs`, the files of published weights, and building a model with them.

A published model is a folder `model_cards/<model>.<dataset>/` with a `model.safetensors`. An installed package has the
folder `model_cards`; in a checkout or an editable install it is next to the package. The environment variable
`ZOO_MODEL_CARDS` names another folder.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models._builder import resolve_pretrained_cfg
from timm.models._hub import download_from_hf
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from zoo import __version__
from zoo.catalog import DATASETS, DEFAULT_DATASET
from zoo.compact import expand
from zoo.hub import check_download, hub_id

__all__ = [
    "MODEL_CARDS", "PACKAGED_CARDS", "build_model", "config_file", "dataset_cfgs", "published_models", "weights_file",
]  # fmt: skip

FilterFn = Callable[[dict[str, Any], nn.Module], dict[str, Any]]
ModelT = TypeVar("ModelT", bound=nn.Module)

PACKAGED_CARDS = Path(__file__).resolve().parent / "model_cards"
"""Where an installed package holds the published models (see setup.py)."""


def _model_cards() -> Path:
    """Return the folder of the published models."""
    here = PACKAGED_CARDS if PACKAGED_CARDS.is_dir() else PACKAGED_CARDS.parent.parent / "model_cards"
    # Absolute: timm opens a weights file when a model is built, and the working directory may have changed by then.
    return Path(os.environ.get("ZOO_MODEL_CARDS") or here).expanduser().resolve()


MODEL_CARDS = _model_cards()


def weights_file(model_name: str, dataset: str) -> str | None:
    """Find the published weights of a model: their path, or None where there are none."""
    path = MODEL_CARDS / f"{model_name}.{dataset}" / "model.safetensors"
    return str(path) if path.is_file() else None


def dataset_cfgs(model_name: str, size: int, **cfg: Any) -> dict[str, DefaultCfg]:
    """Make timm's `default_cfgs` of one architecture, with a tag for each dataset.

    Args:
        model_name: name of the entrypoint.
        size: height and width of the input in pixels; images are resized to it whole, without a crop.
        cfg: further fields of timm's `PretrainedCfg`, or other values than those given here.
    """
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    # timm's default is the first tag with weights, unless a later one has a star: the default comes last.
    for tag in sorted(DATASETS, key=lambda tag: tag == DEFAULT_DATASET):
        dataset = DATASETS[tag]
        cfgs[f"{model_name}.{tag}{'*' if tag == DEFAULT_DATASET else ''}"] = {
            "file": weights_file(model_name, tag),
            "hf_hub_id": hub_id(f"{model_name}.{tag}", __version__),
            "input_size": (dataset.image_size[-1], size, size),
            "pool_size": (size // 32, size // 32),  # after five halvings
            "mean": dataset.mean,
            "std": dataset.std,
            "num_classes": len(dataset.labels),
            "label_names": dataset.labels,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "license": "apache-2.0",
            **cfg,
        }
    return dict(generate_default_cfgs(cfgs))


def config_file(cfg: dict[str, Any]) -> Path | None:
    """Find the `config.json` beside the weights that a `pretrained_cfg` names; None where there is none."""
    if cfg.get("source") == "hf-hub":
        return Path(download_from_hf(cfg["hf_hub_id"], "config.json"))
    if not cfg.get("file"):
        return None
    weights = Path(cfg["file"])
    file = (weights if weights.is_dir() else weights.parent) / "config.json"
    return file if file.is_file() else None


def published_models() -> list[str]:
    """List the models whose weights are in `MODEL_CARDS`, as `<model>.<dataset>`, sorted."""
    return sorted(path.parent.name for path in MODEL_CARDS.glob("*/model.safetensors"))


def _expanding(filter_fn: FilterFn | None) -> FilterFn:
    """Make a checkpoint filter that expands the compact form before a model's own filter is applied."""

    def expand_and_filter(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        state_dict = expand(state_dict)
        return filter_fn(state_dict, model) if filter_fn else state_dict

    return expand_and_filter


def _expand_in_place(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Expand a compact state dict before `load_state_dict`, where timm runs no filter (`checkpoint_path`)."""
    mine = {name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    whole, own = expand(mine), module.state_dict()
    precisions = {tensor.dtype for name, tensor in whole.items() if name in own and own[name].is_floating_point()}
    if whole.keys() != mine.keys() or len(precisions) > 1:
        # Published tensors are stored in several precisions, which `assign=True` would keep: convert to the model's.
        whole = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in whole.items()}
    state_dict.update({prefix + name: tensor for name, tensor in whole.items()})


class _ZerosForDraws(TorchFunctionMode):
    """Fills tensors with zeros instead of random numbers: those of a VGG16 take as long as loading its weights."""

    DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless it draws."""
        kwargs = kwargs or {}
        if func not in self.DRAWS:
            return func(*args, **kwargs)
        with torch.no_grad():
            return (args[0] if args else kwargs["tensor"]).zero_()


def _is_replaced(cfg: PretrainedCfg, kwargs: dict[str, Any]) -> bool:
    """Tell whether a checkpoint replaces all that a new model draws; else timm lets layers keep it."""
    return (
        not (kwargs.get("features_only") or cfg.custom_load)
        and kwargs.get("pretrained_strict", True)
        and kwargs.get("num_classes", cfg.num_classes) == cfg.num_classes
        and kwargs.get("in_chans", cfg.input_size[0]) == cfg.input_size[0]
    )


def build_model(
    model_cls: type[ModelT],
    variant: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_filter_fn: FilterFn | None = None,
    draws_slowly: bool = False,
    **kwargs: Any,
) -> ModelT:
    """Build a model with timm's `build_model_with_cfg`; it then loads compact checkpoints too.

    Args:
        model_cls: the class to instantiate.
        variant: the name of the entrypoint.
        pretrained: load weights.
        pretrained_cfg: as in timm.
        pretrained_cfg_overlay: as in timm.
        pretrained_filter_fn: adapts a checkpoint, after its expansion, to the model.
        draws_slowly: random weights that a checkpoint replaces are not drawn; not for a filter that keeps some of them.
        kwargs: further arguments of `build_model_with_cfg` and of the class.

    Returns:
        The model; with `features_only=True` timm's wrapper of it, as for timm's own models.

    Raises:
        RuntimeError: there are no weights to load, neither published ones nor any that the cfg or its overlay names.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        dataset = cfg.tag or DEFAULT_DATASET
        where = f"looked in {MODEL_CARDS}; the environment variable ZOO_MODEL_CARDS names another folder"
        if not MODEL_CARDS.is_dir():
            where = (
                f"there is no folder {MODEL_CARDS}: before `import zoo`, set the environment variable ZOO_MODEL_CARDS "
                "to the folder `model_cards` of a checkout of the project"
            )
        raise RuntimeError(
            f"No weights are published for {variant}.{dataset} ({where}). Published: "
            f"{', '.join(published_models()) or 'none'}. Use pretrained=False for random weights, or train the model, "
            f"in a checkout of the project: accelerate launch train/fit.py --model {variant} --dataset {dataset} "
            "--recipe fast"
        )
    if pretrained and cfg.hf_hub_id and not (cfg.file or cfg.state_dict):
        check_download(cfg.hf_hub_id)
    with _ZerosForDraws() if draws_slowly and pretrained and _is_replaced(cfg, kwargs) else nullcontext():
        model = build_model_with_cfg(
            model_cls,
            variant,
            pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            pretrained_filter_fn=_expanding(pretrained_filter_fn),
            **kwargs,
        )
    # For `zoo.calibration`: timm leaves out a classifier for another number of classes.
    model.has_pretrained_classifier = pretrained and getattr(model, "num_classes", None) == cfg.num_classes  # type: ignore[assignment]
    model.register_load_state_dict_pre_hook(_expand_in_place)  # type: ignore[no-untyped-call]  # torch gives no types
    return model
