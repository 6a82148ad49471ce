"""The README.md of a published model: every number comes from its `metrics.json`."""

import json
import shlex
from pathlib import Path

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from train import records
from train.cards import provenance, rendering, robustness, wording
from train.data.augment import Augmentation
from train.data.reference import DatasetRef, recorded
from train.files import FileError
from train.records import CardConfig, CardMetrics
from train.training import recipes
from train.training.results import measure
from zoo.catalog import DATASETS, NETWORKS

TEMPLATES = rendering.environment(Path(__file__).parent / "templates")


def render(folder: Path) -> str:
    """Return the text of a card folder's README.md, from its `metrics.json` and `config.json`.

    Raises:
        files.FileError: one of them is missing or damaged.
    """
    metrics = records.read(CardMetrics, folder / "metrics.json")
    config = records.read(CardConfig, folder / "config.json")
    recipe = recipes.of_settings(metrics.settings)
    network, dataset = NETWORKS.get(metrics.model), recorded(metrics.dataset)
    own_height, own_width, channels = config.image_size
    _, *full = config.pretrained_cfg["input_size"]
    registered = {f"{model}.{name}" for model in NETWORKS for name in DATASETS}
    accuracies, confusion = metrics.tested_classes, np.array(metrics.confusion_matrix)
    classes = len(metrics.per_class_accuracy)
    if confusion.shape != (classes, classes):
        raise FileError(f"{folder / 'metrics.json'} is damaged: its confusion matrix is not of {classes} classes")
    return TEMPLATES.get_template("model_card.md.j2").render(
        name=folder.name,
        header=_header(folder.name, metrics, dataset),
        metrics=metrics,
        # Computed here: cards of versions that did not write them have them too.
        macro_f1=measure.macro_f1(confusion),
        balanced_accuracy=measure.balanced_accuracy(confusion) if measure.uneven(confusion) else None,
        calibration=metrics.calibration,
        robustness=robustness.read(folder),
        recipe=recipe,
        description=network.description if network else metrics.model,
        title=dataset.title,
        of_the_paper=bool(network and dataset.paper),
        vanilla=metrics.model.startswith("vanilla_"),
        ships_images=dataset.paper is not None,
        labels=config.label_names,
        labels_as_code=json.dumps(config.label_names),
        weakest=sorted(accuracies, key=accuracies.__getitem__)[:2],
        grey=channels == 1,
        own_size=wording.size((own_height, own_width)),
        input_size=wording.size((full[0], full[1])),
        input_sizes=wording.input_sizes(recipe, (full[0], full[1])),
        loaded_as=folder.name if folder.name in registered else f"local-dir:{folder.name}",
        quoted_name=shlex.quote(folder.name),
        augmented=recipe.augmentation != Augmentation(),
        on_the_hub=dataset.hub_id is not None,
        changed=sorted(name.replace("_", " ") for name in provenance.changed_beyond_flags(metrics)),
        fine_tuned=provenance.fine_tuned(metrics),
        replaces_its_start=provenance.replaces_its_start(metrics),
        command=provenance.command,
        wording=wording,
    )


def _header(name: str, metrics: CardMetrics, dataset: DatasetRef) -> str:
    """Return the YAML that the Hub reads, with the test accuracy as a `model-index`."""
    card_data = ModelCardData(
        # The licence of a network for other images is up to whoever trained it.
        license="apache-2.0" if metrics.model in NETWORKS and dataset.paper else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm"],
    )
    if dataset.hub_id:
        result = EvalResult(
            task_type="image-classification",
            dataset_type=dataset.hub_id,
            dataset_name=dataset.title,
            dataset_config=dataset.configuration,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="Accuracy",
            metric_value=round(metrics.test_accuracy / 100, 6),
        )
        card_data.datasets, card_data.model_name, card_data.eval_results = [dataset.hub_id], name, [result]
    return card_data.to_yaml()
