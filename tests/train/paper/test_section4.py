"""Section 4's changes by name."""

import itertools

import pytest
import timm
import torch

from train.paper import section4
from train.training.models import ModelError


@pytest.mark.parametrize("family", list(section4.CHANGES))
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_none_and_all_of_the_changes_are_the_papers_networks(family: str, dataset: str) -> None:
    with torch.device("meta"):
        for kind, changes in (("vanilla", []), ("improved", section4.names(family))):
            built = section4.build(family, *changes, dataset=dataset)
            named = timm.create_model(f"{kind}_{family}.{dataset}")
            assert [(n, p.shape) for n, p in built.named_parameters()] == [
                (n, p.shape) for n, p in named.named_parameters()
            ]
            assert type(built) is type(named)
            assert getattr(built, "drop_rate", None) == getattr(named, "drop_rate", None)


@pytest.mark.parametrize("family", list(section4.CHANGES))
def test_every_choice_of_changes_is_another_network(family: str) -> None:
    names = section4.names(family)
    chosen = [c for n in range(len(names) + 1) for c in itertools.combinations(section4.CHANGES[family], n)]
    found = [section4.architecture(family, changes) for changes in chosen]
    assert all(found.count(one) == 1 for one in found)


def test_a_network_is_built_for_a_size_and_with_further_arguments() -> None:
    with torch.device("meta"):
        model = section4.build("resnet18", "stem", dataset="mnist", side=48, drop_rate=0.3)
    assert model.pretrained_cfg["input_size"] == (1, 48, 48)
    assert model.drop_rate == 0.3


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(ModelError, match="unknown family 'resnet34': valid are vgg16, resnet18, googlenet"):
        section4.build("resnet34")
    with pytest.raises(ModelError, match="unknown change 'norms' of resnet18: valid are stem, dropout, initialisation"):
        section4.build("resnet18", "stem", "norms")
    with pytest.raises(ModelError, match="unknown dataset 'svhn': valid are mnist, cifar10"):
        section4.build("resnet18", dataset="svhn")
