"""Defaults that fit the data: what follows from the number of images, and what fine-tuning starts from."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from conftest import SAMPLES, narrow_vgg16, reset_accelerate
from torch import nn

from train.data import loading
from train.data.augment import Augmentation
from train.data.batches import batches
from train.data.loading import Split
from train.speed.fold import fold
from train.training import arguments, defaults, fine_tuning, loop, models, recipes
from train.training.arguments import emulates_bf16, recipe_for
from zoo.catalog import DATASETS, NETWORKS

own_images: Any = importlib.import_module("benchmarks.own_images")
# Validation accuracy at the end, in percent. Recipe `fast` unchanged stays below; docs/recipe.md has what was measured.
FLOORS = {
    **dict(zip(own_images.SMALL, (90.0, 80.0, 85.0), strict=True)),
    own_images.Situation("digits", 5, 20, 32, "vanilla_vgg16", True, 5): 60.0,
    own_images.Situation("pairs", 20, 20, 32, "vanilla_resnet18", True, 5): 30.0,
}
FULL = {name: data.train_images - data.validation_images for name, data in DATASETS.items()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("pretrained", [True, False])
def test_the_papers_datasets_in_full_keep_the_recipe(network: str, dataset: str, pretrained: bool) -> None:
    args = arguments.parse(["--model", network, "--dataset", dataset, *(["--pretrained"] if pretrained else [])])
    for name in recipes.RECIPES:
        args.recipe = name
        recipe = recipes.get(name, network, dataset)
        assert dataclasses.replace(recipe_for(args, FULL[dataset]), mixed_precision=recipe.mixed_precision) == recipe
    args.recipe = "paper"  # with few images too
    assert recipe_for(args, 1000) == recipe_for(args)
    args.recipe = "fast"
    assert recipe_for(args, 1000).batch_size == 16


@pytest.mark.parametrize("network", [*NETWORKS, "resnet50"])
@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("images", [7, 16, 250, 1800, 5000, 45_000, 200_000])
def test_batches_and_length_follow_from_the_images(network: str, pretrained: bool, images: int) -> None:
    recipe = recipes.get("fast", network, "folder")
    derived = defaults.fitted(recipe, dataset="folder", images=images, pretrained=pretrained)
    assert 16 <= derived.batch_size <= 512
    steps = len(batches(images, derived.batch_size))
    assert defaults.steps_per_epoch(images, derived.batch_size) == steps
    total = steps * derived.epochs
    if images >= 250:
        assert total >= (600 if pretrained else 1000)
    assert (derived.fit_classifier, derived.keep_statistics) == (pretrained, pretrained)
    assert derived.warm_up == (0.5 if pretrained else 0.2)
    line = defaults.in_words(derived, images, pretrained, overfit=False)
    assert f"{images:,} training images" in line
    assert f"({total:,} steps)" in line
    assert f"batches of {derived.batch_size}," in line
    assert f"peak rate {derived.learning_rate:g}," in line
    assert ("classifier fitted" in line) == pretrained
    assert derived.learning_rate <= recipe.learning_rate
    if pretrained:
        assert derived.learning_rate <= 0.01
    if images >= defaults.MANY_IMAGES and not pretrained:  # the recipe, without mirroring
        flip = dataclasses.replace(recipe.augmentation, flip="none")
        assert derived == dataclasses.replace(recipe, augmentation=flip)
    else:
        assert derived.batch_size <= 128
        assert derived.sizes == ()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pretrained", [True, False])
def test_folders_are_not_mirrored(network: str, pretrained: bool) -> None:
    """The mirror image of a letter may be another letter."""
    recipe = recipes.get("fast", network, "letters")
    derived = defaults.fitted(recipe, dataset="letters", images=500, pretrained=pretrained)
    assert derived.augmentation.flip == "none"
    assert "no mirroring" in defaults.in_words(derived, 500, pretrained, overfit=False)


@pytest.mark.parametrize("pretrained", [True, False])
def test_samples_of_cifar10_are_mirrored_and_those_of_mnist_are_not(pretrained: bool) -> None:
    for dataset in DATASETS:
        recipe = recipes.get("fast", "improved_resnet18", dataset)
        fitted = defaults.fitted(recipe, dataset=dataset, images=1800, pretrained=pretrained)
        assert fitted.augmentation.flip == recipe.augmentation.flip
        assert fitted.batch_size < recipe.batch_size


def test_what_the_command_line_says_is_kept() -> None:
    recipe = recipes.get("fast", "improved_resnet18", "folder")
    derived = defaults.fitted(
        recipe, dataset="folder", images=250, pretrained=True, epochs=5, batch_size=32, learning_rate=0.01
    )
    assert (derived.epochs, derived.batch_size, derived.learning_rate) == (5, 32, 0.01)
    assert "5 epochs (40 steps)" in defaults.in_words(derived, 250, pretrained=True, overfit=False)
    heart = defaults.by_heart(recipe, 40, epochs=2, batch_size=8, learning_rate=0.01)
    assert (heart.epochs, heart.batch_size, heart.learning_rate) == (2, 8, 0.01)


@pytest.mark.parametrize(
    ("dataset", "flag", "flip"),
    [
        ("cifar10", None, "alternating"),
        ("cifar10", "none", "none"),
        ("mnist", None, "none"),
        ("owner/letters", None, "none"),
        ("owner/letters", "horizontal", "alternating"),
    ],
)
def test_mirroring_is_a_flag(dataset: str, flag: str | None, flip: str) -> None:
    args = arguments.parse(["--model", "improved_resnet18", "--dataset", dataset])
    args.flip = flag
    assert recipe_for(args, 500).augmentation.flip == flip


def test_a_run_that_is_resumed_keeps_what_it_recorded() -> None:
    """Of an earlier version, which derived nothing; another value on the command line is another run."""
    args = arguments.parse(["--model", "improved_resnet18", "--dataset", "owner/letters"])
    before = recipe_for(args)
    assert recipe_for(args, 500) != before
    assert recipe_for(args, 500, recorded=before) == before
    args.learning_rate = 0.5
    assert recipe_for(args, 500, recorded=before).learning_rate == 0.5


def test_the_same_classes_keep_their_classifier() -> None:
    args = arguments.parse(["--model", "improved_resnet18", "--dataset", "owner/letters", "--pretrained"])
    assert recipe_for(args, 500).fit_classifier
    kept = recipe_for(args, 500, new_classifier=False)
    assert (kept.fit_classifier, kept.keep_statistics) == (False, True)


@pytest.mark.parametrize(("epochs", "warned"), [(6, True), (7, False)])
def test_fewer_than_100_steps_are_warned_of(epochs: int, warned: bool) -> None:
    recipe = recipes.get("fast", "improved_resnet18", "folder")
    fitted = defaults.fitted(recipe, dataset="folder", images=250, pretrained=True, epochs=epochs)
    line = defaults.warning(fitted, 250)
    assert (line is not None and "96 optimiser steps are few" in line) == warned


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("images", [2, 8, 32, 500])
def test_learning_by_heart_has_nothing_against_it(network: str, images: int) -> None:
    recipe = defaults.by_heart(recipes.get("fast", network, "cifar10"), images)
    assert recipe.augmentation == Augmentation()
    assert (recipe.label_smoothing, recipe.weight_decay, recipe.sizes) == (0, 0, ())
    assert recipe.clip_norm > 0
    assert recipe.epochs * len(batches(images, recipe.batch_size)) >= defaults.BY_HEART_STEPS


def test_logistic_regression_separates_what_can_be_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 5 * torch.randn(3, 20, generator=generator)
    x = 100 + 1000 * (centres[labels] + torch.randn(300, 20, generator=generator))  # far from 0 and from 1
    weight, bias = fine_tuning.logistic_regression(x, labels, 3, 0.1)
    assert (weight.shape, bias.shape) == ((3, 20), (3,))
    assert ((x @ weight.T + bias).argmax(1) == labels).float().mean() > 0.99


def some_images(count: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 4)


@pytest.mark.parametrize("network", ["vanilla_resnet18", "vanilla_googlenet", "vanilla_vgg16", "test_resnet"])
def test_fitting_changes_the_classifier_alone(network: str) -> None:
    torch.manual_seed(0)
    narrow = network.endswith("vgg16")
    model = narrow_vgg16(network, classes=4) if narrow else timm.create_model(network, num_classes=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split = some_images(40)
    fine_tuning.fit_classifier(model, split, 0.1, torch.device("cpu"))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    layer = fine_tuning.classifier(model)
    assert layer is not None
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert changed == {names[parameter] for parameter in layer.parameters()}
    assert model.training
    logits = layer(fine_tuning.features(model, split, torch.device("cpu")))
    assert logits.shape == (40, 4)


def test_models_without_a_linear_classifier_are_left_as_they_are() -> None:
    model = timm.create_model("vanilla_resnet18", num_classes=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fine_tuning.fit_classifier(model, some_images(8), 0.1, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_are_kept_until_the_next_epoch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    model.train()
    fine_tuning.keep_statistics(model)
    x = torch.randn(8, 3, 8, 8)
    y = model(x)
    assert model[2].training
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))
    y.sum().backward()
    assert norm.weight.grad is not None  # it is trained all the same
    model.train()
    model(x)
    assert not torch.equal(norm.running_mean, torch.zeros(4))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_learns_images_by_heart(network: str, tmp_path: Path) -> None:
    few = loading.load("cifar10", SAMPLES).train.spread(32)
    dataset = loading.Dataset("cifar10", DATASETS["cifar10"].labels, few, few, few)
    recipe = defaults.by_heart(recipes.get("fast", network, "cifar10"), len(few))
    if emulates_bf16():
        recipe = dataclasses.replace(recipe, mixed_precision="no")
    set_seed(0)
    model = models.create(network, "cifar10", 10, 3)
    model = fold(model, models.pretrained_cfg(model)["input_size"], to_train=True)
    reset_accelerate()
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
    run = loop.Run(model, dataset, recipe, accelerator, tmp_path, loop.Options(seed=0))
    run.train()
    assert run.progress.rows[-1]["validation_accuracy"] == 100


@pytest.mark.slow
@pytest.mark.parametrize(("situation", "floor"), FLOORS.items())
def test_fitted_defaults_reach_their_floors_on_the_samples(situation: Any, floor: float) -> None:
    """On images that had no part in any choice; of the 120 to 400 of them, 3 % are four or more: less is chance."""
    reset_accelerate()
    found = own_images.measure(situation, SAMPLES, seed=0, unchanged=True)
    assert found["before"] < floor
    assert found["last"] >= floor
    if situation.pretrained:
        assert found["first"] >= found["linear"] - 3
        assert found["last"] >= found["linear"] - 3
