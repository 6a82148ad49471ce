"""Every field of a recipe and of an augmentation is in the text of a card."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from train.cards import model_card, wording
from train.data.augment import Augmentation
from train.training import recipes
from train.training.recipes import Recipe

# A recipe in which every field has an effect, and another value for each field.
RECIPE = Recipe(epochs=8, learning_rate=0.1, schedule="milestones", milestones=(5,), weight_decay=0.1)
OTHER_RECIPE: dict[str, Any] = {
    "epochs": 16,
    "learning_rate": 0.2,
    "schedule": "fixed",
    "linear_lr_scale": 0.5,
    "clip_norm": 2.0,
    "batch_size": 64,
    "milestones": (7,),
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.2,
    "decay_norms_and_biases": False,
    "label_smoothing": 0.1,
    "side": 64,
    "sizes": ((0.5, 0.5),),
    "mixed_precision": "bf16",
    "augmentation": Augmentation(rotation=10),
    "warm_up": 0.5,
    "fit_classifier": True,
    "keep_statistics": True,
    "freeze": True,
}
OTHER_AUGMENTATION: dict[str, Any] = {
    "flip": "random",
    "rotation": 10,
    "shear": 5,
    "shift": 0.1,
    "scale": (0.8, 1.2),
    "brightness": 0.2,
    "contrast": 0.3,
    "saturation": 0.4,
    "cutout": 0.25,
}


def test_there_is_another_value_for_every_field() -> None:
    """A new field gets one here; the tests below then fail until a card mentions it."""
    assert OTHER_RECIPE.keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert OTHER_AUGMENTATION.keys() == {field.name for field in dataclasses.fields(Augmentation)}


@pytest.mark.parametrize("field", OTHER_AUGMENTATION)
def test_a_card_words_every_field_of_an_augmentation(field: str) -> None:
    (phrase,) = wording.augmentation(dataclasses.replace(Augmentation(), **{field: OTHER_AUGMENTATION[field]}))
    everything = Augmentation(**OTHER_AUGMENTATION)
    assert phrase in wording.augmentation(everything)
    assert len(wording.augmentation(everything)) == len(OTHER_AUGMENTATION)
    assert wording.augmentation(Augmentation()) == []


def settings_in(card: Path, recipe: Recipe) -> str:
    """The settings of the training as a card lists them for a run of this recipe, without the command above them."""
    changes: dict[str, Any] = {"settings": recipes.as_settings(recipe)}
    # A card states the epochs and the precision that the run had, not those that its recipe asked for.
    changes |= {"epochs": recipe.epochs, "mixed_precision": recipe.mixed_precision}
    metrics = json.loads((card / "metrics.json").read_text()) | changes
    (card / "metrics.json").write_text(json.dumps(metrics))
    return model_card.render(card).partition("\nOne run, ")[2].partition("## Limits")[0]


@pytest.mark.parametrize("run_folder", ["cifar10"], indirect=True)
@pytest.mark.parametrize("field", OTHER_RECIPE)
def test_a_card_words_every_field_of_a_recipe(twin: Path, field: str) -> None:
    recipe = dataclasses.replace(RECIPE, schedule="one-cycle") if field == "warm_up" else RECIPE
    before = settings_in(twin, recipe)
    assert before
    assert settings_in(twin, dataclasses.replace(recipe, **{field: OTHER_RECIPE[field]})) != before
