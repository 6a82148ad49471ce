"""What the six networks share with timm's registry: input statistics, weight files, and the error where there are none.

A published model is a folder `model_cards/<model>.<dataset>/` with a `model.safetensors`, next to this package in a
checkout or an editable install. `ZOO_MODEL_CARDS` names another folder, for an installation without the checkout.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models._builder import resolve_pretrained_cfg
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from torch import nn

from zoo.catalog import DATASETS
from zoo.compact import expand

FilterFn = Callable[[dict[str, Any], nn.Module], dict[str, Any]]

# Absolute, as timm opens a file when a model is made, whatever folder is the current one then.
MODEL_CARDS = (
    Path(os.environ.get("ZOO_MODEL_CARDS") or Path(__file__).resolve().parent.parent / "model_cards")
    .expanduser()
    .resolve()
)


def weights_file(model_name: str, dataset: str) -> str | None:
    """Path of the published weights of a model, None where there are none."""
    path = MODEL_CARDS / f"{model_name}.{dataset}" / "model.safetensors"
    return str(path) if path.is_file() else None


def dataset_cfgs(model_name: str, size: int, **cfg: Any) -> dict[str, DefaultCfg]:
    """Timm's `default_cfgs` of one architecture: the tags `.cifar10`, the default, and `.mnist`.

    Args:
        model_name: name of the entrypoint.
        size: height and width of the input in pixels; images are resized to it whole, without a crop.
        cfg: further fields of timm's `PretrainedCfg`.
    """
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    # timm takes the first tag that has weights for the default, save where a later one bears a star: mnist comes first.
    for dataset, tag in (("mnist", "mnist"), ("cifar10", "cifar10*")):
        statistics = DATASETS[dataset]
        cfgs[f"{model_name}.{tag}"] = {
            "file": weights_file(model_name, dataset),
            "input_size": (statistics.image_size[-1], size, size),
            "pool_size": (size // 32, size // 32),  # after five halvings
            "mean": statistics.mean,
            "std": statistics.std,
            "num_classes": len(statistics.labels),
            "label_names": statistics.labels,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "license": "apache-2.0",
            **cfg,
        }
    return dict(generate_default_cfgs(cfgs))


def published_models() -> list[str]:
    """Names `<model>.<dataset>` of the models whose weights are in `MODEL_CARDS`, sorted."""
    return sorted(path.parent.name for path in MODEL_CARDS.glob("*/model.safetensors"))


def _expanding(filter_fn: FilterFn | None) -> FilterFn:
    """A checkpoint filter that takes the compact form too, and hands the whole one on to a model's own filter."""

    def expand_and_filter(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        state_dict = expand(state_dict)
        return filter_fn(state_dict, model) if filter_fn else state_dict

    return expand_and_filter


def _expand_in_place(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before `load_state_dict`: it expands what goes past timm's checkpoint filter, `checkpoint_path` say."""
    mine = {name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    whole, own = expand(mine), module.state_dict()
    precisions = {tensor.dtype for name, tensor in whole.items() if name in own and own[name].is_floating_point()}
    if whole.keys() != mine.keys() or len(precisions) > 1:
        # Published tensors are stored in several precisions. `assign=True` would keep those; they take the model's.
        whole = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in whole.items()}
    state_dict.update({prefix + name: tensor for name, tensor in whole.items()})


def build_model(
    model_cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_filter_fn: FilterFn | None = None,
    **kwargs: Any,
) -> Any:
    """Timm's `build_model_with_cfg`, with an error that helps where `pretrained=True` has nothing to load.

    Raises:
        RuntimeError: weights are asked for and neither published nor named in the cfg or its overlay.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        dataset = cfg.tag or "cifar10"
        where = f"looked in {MODEL_CARDS}; the environment variable ZOO_MODEL_CARDS names another folder"
        if not MODEL_CARDS.is_dir():
            where = (
                f"there is no folder {MODEL_CARDS}: before `import zoo`, have the environment variable ZOO_MODEL_CARDS "
                "name the `model_cards` of a checkout of the project"
            )
        raise RuntimeError(
            f"No weights are published for {variant}.{dataset} ({where}). Published: "
            f"{', '.join(published_models()) or 'none'}. Use pretrained=False for random weights, or train them, in a "
            f"checkout of the project: accelerate launch train/fit.py --model {variant} --dataset {dataset} "
            "--recipe fast"
        )
    model = build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        pretrained_filter_fn=_expanding(pretrained_filter_fn),
        **kwargs,
    )
    model.register_load_state_dict_pre_hook(_expand_in_place)
    return model
