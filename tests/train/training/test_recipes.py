"""The paper's section 5.1, number by number, and the shape of ours."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from train.data.augment import Augmentation
from train.training import recipes
from train.training.objective import loss_sum, make_optimizer
from zoo.googlenet import GoogLeNetOutputs

IMPROVED = ["improved_vgg16", "improved_resnet18", "improved_googlenet", "improved_vgg16.mnist"]


# Recipe, model and dataset -> the settings that published runs and their cards go by.
PINNED = json.loads((Path(__file__).parent / "recipes.json").read_text())


@pytest.mark.parametrize("case", PINNED)
def test_recipes_are_those_of_the_published_runs(case: str) -> None:
    assert recipes.get(*case.split()) == recipes.of_settings(PINNED[case])


def test_a_tag_and_an_unknown_network_change_no_recipe() -> None:
    for name in recipes.RECIPES:
        assert recipes.get(name, "improved_vgg16.mnist", "cifar10") == recipes.get(name, "improved_vgg16", "cifar10")
    assert recipes.get("fast", "improved_new", "cifar10") == recipes.get("fast", "resnet18", "cifar10")


@pytest.mark.parametrize("model", ["vanilla_vgg16", "vanilla_resnet18", "vanilla_googlenet"])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_paper_vanilla(model: str, dataset: str) -> None:
    recipe = recipes.get("paper", model, dataset)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.nesterov) == (50, 128, 0.9, False)
    assert (recipe.weight_decay, recipe.label_smoothing) == (0, 0)
    assert recipe.augmentation == Augmentation()
    assert recipe.side == 64
    assert {recipes.learning_rate(recipe, step, 352) for step in range(0, 50 * 352, 11)} == {0.001}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_settings_are_read_as_they_were_written(name: str) -> None:
    recipe = recipes.get(name, "improved_resnet18", "cifar10")
    settings = recipes.as_settings(recipe)
    assert recipes.of_settings(settings) == recipe
    # By a version that knew another field, and not this one.
    settings["channels_last"] = settings["augmentation"]["posterize"] = True
    del settings["clip_norm"]
    assert recipes.of_settings(settings) == recipe


def test_models_that_are_not_the_papers_keep_their_size() -> None:
    assert recipes.get("paper", "resnet18", "cifar10") == dataclasses.replace(recipes.PAPER_VANILLA, side=None)


@pytest.mark.parametrize("model", IMPROVED)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_paper_improved(model: str, dataset: str) -> None:
    recipe = recipes.get("paper", model, dataset)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.nesterov) == (50, 128, 0.9, False)
    assert (recipe.weight_decay, recipe.label_smoothing) == (4e-5, 0.1)
    assert recipe.side is None  # 64 is their own
    augmentation = recipe.augmentation
    assert (augmentation.shift, augmentation.scale) == (0.1, (0.8, 1.2))
    jitter = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    if dataset == "mnist":
        assert (augmentation.flip, augmentation.rotation, augmentation.shear) == ("none", 15, 0)
        assert jitter == (0, 0, 0)
    else:
        assert (augmentation.flip, augmentation.rotation, augmentation.shear) == ("random", 10, 10)
        assert jitter == (0.2, 0.2, 0.2)
    assert augmentation.cutout == 0


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (1, 1e-2),
        (5, 1e-2),
        (6, 1e-3),
        (27, 1e-3),
        (28, 1e-4),
        (40, 1e-4),
        (41, 1e-5),
        (47, 1e-5),
        (48, 1e-6),
        (50, 1e-6),
    ],
)
def test_paper_learning_rate_of_each_epoch(epoch: int, rate: float) -> None:
    recipe = recipes.get("paper", "improved_vgg16", "cifar10")
    for steps in (1, 352, 391):
        first, last = (epoch - 1) * steps, epoch * steps - 1
        assert recipes.learning_rate(recipe, first, steps) == pytest.approx(rate, rel=1e-12)
        assert recipes.learning_rate(recipe, last, steps) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("steps", [1, 3, 352])
def test_one_cycle_rises_once_and_falls_once_to_nothing(dataset: str, steps: int) -> None:
    recipe = recipes.get("fast", "improved_resnet18", dataset)
    rates = [recipes.learning_rate(recipe, step, steps) for step in range(recipe.epochs * steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
    if steps == 352:
        assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-3)
        assert rates[0] < 0.01 * recipe.learning_rate
        assert rates[-1] < 1e-5 * recipe.learning_rate


def test_other_datasets_get_the_colour_recipe() -> None:
    assert recipes.get("fast", "resnet18", "my/pictures") == recipes.get("fast", "resnet18", "cifar10")


def test_unknown_recipe_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'slow'.*'paper', 'fast'"):
        recipes.get("slow", "improved_vgg16", "mnist")


class Affine(nn.Module):
    """A matrix, a norm, and biases: whatever weight decay may or may not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)


def decayed(recipe: recipes.Recipe) -> set[str]:
    """Names of the parameters that one step without gradient, at rate 1, makes smaller."""
    model = Affine()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    optimizer.step()
    for parameter in model.parameters():
        assert torch.equal(parameter, torch.full_like(parameter, parameter.flatten()[0].item()))
    by = {name: 1 - parameter.flatten()[0].item() for name, parameter in model.named_parameters()}
    expected = recipe.weight_decay * (1 + recipe.momentum if recipe.nesterov else 1)
    assert all(amount == 0 or amount == pytest.approx(expected, rel=0.01) for amount in by.values())
    return {name for name, amount in by.items() if amount}


def test_weight_decay_reaches_biases_in_the_paper_and_matrices_only_in_fast() -> None:
    everything = {name for name, _ in Affine().named_parameters()}
    assert decayed(recipes.get("paper", "improved_vgg16", "mnist")) == everything
    assert decayed(recipes.get("fast", "improved_vgg16", "mnist")) == {"conv.weight", "fc.weight"}
    assert decayed(recipes.get("paper", "vanilla_vgg16", "mnist")) == set()


@pytest.mark.parametrize("name", ["paper", "fast"])
def test_optimizer_is_the_recipes(name: str) -> None:
    recipe = recipes.get(name, "improved_vgg16", "cifar10")
    for group in make_optimizer(Affine(), recipe).param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.9, name == "fast")
        assert group["dampening"] == 0


def test_label_smoothing_is_section_4s() -> None:
    """Alpha * loss + (1 - alpha) * y: the mean of all classes' negative log probabilities, and the true class's."""
    alpha = 0.1
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 10, generator=generator)
    labels = torch.randint(10, (8,), generator=generator)
    negative = -logits.log_softmax(1)
    paper = alpha * negative.mean(1) + (1 - alpha) * negative[torch.arange(8), labels]
    assert loss_sum(logits, labels, alpha).item() == pytest.approx(paper.sum().item(), rel=1e-6)


def test_smoothed_loss_cannot_fall_below_the_entropy_seen_in_the_papers_logs() -> None:
    """The floor that fixes alpha: ten classes, 0.91 for the true one, 0.01 for each other."""
    logits = torch.tensor([[0.91] + [0.01] * 9]).log()
    floor = -(0.91 * math.log(0.91) + 9 * 0.01 * math.log(0.01))
    assert loss_sum(logits, torch.tensor([0]), 0.1).item() == pytest.approx(floor, rel=1e-5)
    assert floor == pytest.approx(0.5003, abs=1e-4)


def test_auxiliary_losses_are_added_with_their_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    main, aux2, aux1 = (torch.randn(4, 10, generator=generator) for _ in range(3))
    labels = torch.tensor([0, 3, 9, 3])
    one, two, three = (F.cross_entropy(x, labels, reduction="sum").item() for x in (main, aux2, aux1))
    outputs = GoogLeNetOutputs(main, aux2, aux1)
    assert loss_sum(outputs, labels, 0.0).item() == pytest.approx(one + 0.3 * (two + three), rel=1e-6)


def test_input_size_grows_to_the_networks_own() -> None:
    recipe = recipes.Recipe(epochs=10, learning_rate=0.1, schedule="one-cycle", sizes=((0.5, 0.5), (0.8, 0.75)))
    sides = [recipes.input_size(recipe, epoch, (64, 64)) for epoch in range(10)]
    assert sides == [(32, 32)] * 5 + [(48, 48)] * 3 + [(64, 64)] * 2
    # Never below what five halvings need, never above the network's own.
    assert {recipes.input_size(recipe, epoch, (32, 32)) for epoch in range(10)} == {(32, 32)}
    assert recipes.input_size(recipe, 0, (40, 224)) == (32, 112)
    assert recipes.input_size(recipe, 0, (28, 28)) == (28, 28)


@pytest.mark.parametrize("model", ["vanilla_vgg16", "improved_resnet18", "improved_googlenet"])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 7, 50])
def test_every_run_ends_at_the_networks_own_size(model: str, dataset: str, name: str, epochs: int) -> None:
    recipe = dataclasses.replace(recipes.get(name, model, dataset), epochs=epochs)
    sides = [recipes.input_size(recipe, epoch, (64, 64)) for epoch in range(epochs)]
    assert sides[-1] == (64, 64)
    assert sides == sorted(sides)
    if name == "paper" or model.startswith("vanilla"):
        assert set(sides) == {(64, 64)}
