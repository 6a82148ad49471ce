"""The networks of section 4, change by change: the vanilla one, the improved one, and everything in between.

section4.build("resnet18")            # the vanilla ResNet18
section4.build("resnet18", "stem")    # with section 4's stem alone
section4.build("resnet18", *section4.names("resnet18"))    # the improved one
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from train.training import models
from zoo.catalog import DATASETS, DEFAULT_DATASET

VANILLA, IMPROVED = "vanilla", "improved"


@dataclass(frozen=True)
class Change:
    """What makes a vanilla network or its training the improved one, in one respect.

    Attributes:
        name: a word for it, such as "stem".
        title: for the report.
        added: arguments that make the change in the vanilla network.
        left_out: arguments that undo it in the improved network.
        of_class: the improved network has it by itself, and no argument that a command line can give makes it.
        settings: fields of the recipe that the change sets to the improved recipe's values.
        augmentation: likewise of `Augmentation`.
    """

    name: str
    title: str
    added: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)
    of_class: bool = False
    settings: tuple[str, ...] = ()
    augmentation: tuple[str, ...] = ()


_RESNET_STEM = {"stem_type": "deep", "stem_width": 32}
# By family. The improved VGG16 is initialised as torchvision's; the improved GoogLeNet differs in its stem alone.
CHANGES = {
    "vgg16": (
        Change("norms", "BatchNorm after every convolution", of_class=True),
        Change("pool", "5x5 max pool for the 7x7 average pool", {"pool": "max5"}, {"pool": "avg7"}),
    ),
    "resnet18": (
        Change("stem", "three 3x3 convolutions as stem", _RESNET_STEM, {"stem_type": "", "stem_width": 64}),
        Change("dropout", "dropout 0.1 before the classifier", {"drop_rate": 0.1}, {"drop_rate": 0.0}),
        Change("initialisation", "N(0, 0.01) for the classifier", of_class=True),
    ),
    "googlenet": (Change("stem", "three 3x3 convolutions as stem", {"stem": "deep"}, {"stem": "conv7x7"}),),
}


def names(family: str) -> list[str]:
    """List the names of section 4's changes to a family's network, in the paper's order.

    Args:
        family: "vgg16", "resnet18" or "googlenet".

    Raises:
        ModelError: the paper has no such family.
    """
    if family not in CHANGES:
        raise models.ModelError(f"unknown family {family!r}: valid are {', '.join(CHANGES)}")
    return [change.name for change in CHANGES[family]]


def build(
    family: str, *changes: str, dataset: str = DEFAULT_DATASET, side: int | None = None, **kwargs: Any
) -> nn.Module:
    """Build a family's network with some of section 4's changes, with random weights.

    Args:
        family: "vgg16", "resnet18" or "googlenet".
        *changes: of `names`; none gives the vanilla network, all give the improved one.
        dataset: "mnist" or "cifar10", which decides on the input channels, statistics and classes.
        side: of the square input, in pixels; None for that of the published network.
        **kwargs: further arguments of `timm.create_model`.

    Raises:
        ModelError: there is no such family, change or dataset.
    """
    valid = names(family)
    if unknown := [name for name in changes if name not in valid]:
        raise models.ModelError(f"unknown change {unknown[0]!r} of {family}: valid are {', '.join(valid)}")
    if dataset not in DATASETS:
        raise models.ModelError(f"unknown dataset {dataset!r}: valid are {', '.join(DATASETS)}")
    name, arguments = architecture(family, [change for change in CHANGES[family] if change.name in changes])
    entry = DATASETS[dataset]
    return models.create(name, dataset, len(entry.labels), entry.image_size[-1], side=side, **{**arguments, **kwargs})


def architecture(family: str, chosen: Collection[Change]) -> tuple[str, dict[str, Any]]:
    """Return the model's name and the arguments that give a family's network with some of `CHANGES`."""
    every = CHANGES[family]
    by_class = [change for change in every if change.of_class]
    improved = all(change in chosen for change in by_class) if by_class else any(change in chosen for change in every)
    kwargs: dict[str, Any] = {}
    for change in every:
        if improved and change not in chosen:
            kwargs |= change.left_out
        elif not improved and change in chosen:
            kwargs |= change.added
    return f"{IMPROVED if improved else VANILLA}_{family}", kwargs
