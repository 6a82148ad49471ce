"""The README.md of a published model: every number comes from its `metrics.json`, its weights or its network."""

import json
import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from huggingface_hub import EvalResult, ModelCardData
from safetensors import SafetensorError
from torch import nn

from train import records
from train.cards import compact, provenance, rendering, robustness, wording
from train.cards.papers import PAPERS
from train.data.augment import Augmentation
from train.data.reference import DatasetRef, recorded
from train.files import FileError
from train.records import CardConfig, CardMetrics
from train.training import recipes
from train.training.results import familiarity, measure
from zoo.catalog import DATASETS, HUB_ORG, NETWORKS

TEMPLATES = rendering.environment(Path(__file__).parent / "templates")


class _Network(NamedTuple):
    """What a card's network is built from, as values that a cache can compare."""

    architecture: str
    options: str
    input_size: tuple[int, int, int]

    @classmethod
    def of(cls, metrics: CardMetrics, config: CardConfig) -> "_Network":
        options = {"num_classes": config.num_classes, **metrics.model_kwargs, **config.model_args}
        return cls(config.architecture, json.dumps(options, sort_keys=True), tuple(config.pretrained_cfg["input_size"]))

    def build(self, **options: Any) -> nn.Module:
        """Build it without memory for its weights."""
        with torch.device("meta"):
            return timm.create_model(self.architecture, **{**json.loads(self.options), **options}).eval()


def render(folder: Path, weights: Path | None = None, repository: str | None = None) -> str:
    """Return the text of a card folder's README.md, from its `metrics.json`, `config.json` and weights.

    Args:
        folder: of the card.
        weights: the file that the card is published with; None for the folder's own.
        repository: ORGANISATION/NAME on the Hugging Face Hub; None for the name that the project's models have there.

    Raises:
        files.FileError: one of them is missing or damaged.
    """
    metrics = records.read(CardMetrics, folder / "metrics.json")
    config = records.read(CardConfig, folder / "config.json")
    weights = weights or folder / "model.safetensors"
    recipe = recipes.of_settings(metrics.settings)
    network, dataset = NETWORKS.get(metrics.model), recorded(metrics.dataset)
    built = _Network.of(metrics, config)
    own_height, own_width, channels = config.image_size
    _, *full = config.pretrained_cfg["input_size"]
    registered = {f"{model}.{name}" for model in NETWORKS for name in DATASETS}
    accuracies, confusion = metrics.tested_classes, np.array(metrics.confusion_matrix)
    classes = len(metrics.per_class_accuracy)
    if confusion.shape != (classes, classes):
        raise FileError(f"{folder / 'metrics.json'} is damaged: its confusion matrix is not of {classes} classes")
    try:
        stored, size = compact.form(weights), weights.stat().st_size
    except (OSError, SafetensorError) as error:
        raise FileError(f"{weights} is missing or damaged: {error}") from error
    return TEMPLATES.get_template("model_card.md.j2").render(
        name=folder.name,
        header=_header(folder.name, metrics, dataset),
        metrics=metrics,
        # Computed here: cards of versions that did not write them have them too.
        macro_f1=measure.macro_f1(confusion),
        balanced_accuracy=measure.balanced_accuracy(confusion) if measure.uneven(confusion) else None,
        calibration=metrics.calibration,
        tells_unfamiliar=config.familiarity is not None,
        kept=familiarity.KEPT,
        robustness=robustness.read(folder),
        recipe=recipe,
        network=network,
        description=network.description if network else metrics.model,
        title=dataset.title,
        of_the_paper=bool(network and dataset.paper),
        vanilla=metrics.model.startswith("vanilla_"),
        ships_images=dataset.paper is not None,
        hub_id=dataset.hub_id,
        labels=config.label_names,
        weakest=sorted(accuracies, key=accuracies.__getitem__)[:2],
        grey=channels == 1,
        own_size=wording.size((own_height, own_width)),
        own_width_and_height=(own_width, own_height),
        input_size=wording.size((full[0], full[1])),
        input_sizes=wording.input_sizes(recipe, (full[0], full[1])),
        stored=stored,
        megabytes=size / 1e6,
        whole="8-bit" not in stored,
        macs=_macs(built),
        shapes=_shapes(built) if config.architecture in NETWORKS else None,
        code=_code(),
        paper=PAPERS[network.family] if network else None,
        repository=repository or f"{HUB_ORG or 'ORG'}/{folder.name}",
        on_hub=bool(repository or HUB_ORG),
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


@cache
def _macs(network: _Network) -> int | None:
    """Count the MACs for an image; None for a network that looks at values, which the meta device has not."""
    try:
        return measure.macs(network.build(), network.input_size)
    except RuntimeError:
        return None


@cache
@torch.inference_mode()
def _shapes(network: _Network) -> dict[str, Any]:
    """Return the shapes of what one of `zoo`'s networks gives for an image: feature maps and embeddings."""
    images = torch.zeros(1, *network.input_size, device="meta")
    maps = network.build(features_only=True)(images)
    headless: Any = network.build(num_classes=0)
    last = headless.forward_features(images)
    return {
        "maps": [list(each.shape) for each in maps],
        "embedding": list(headless(images).shape),
        "last": list(last.shape),
    }


def _code() -> str | None:
    """Return the address of the project's repository; None where it has none, or is not installed."""
    try:
        urls = metadata("deep-image-zoo").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return dict(url.split(", ", 1) for url in urls).get("Repository")


def _header(name: str, metrics: CardMetrics, dataset: DatasetRef) -> str:
    """Return the YAML that the Hub reads, with the test accuracy as a `model-index`."""
    card_data = ModelCardData(
        # The licence of a network for other images is up to whoever trained it.
        license="apache-2.0" if metrics.model in NETWORKS and dataset.paper else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "onnx"],
    )
    if dataset.hub_id:
        measured = [("accuracy", "Accuracy", metrics.test_accuracy)]
        measured.append(("f1", "Macro F1", measure.macro_f1(np.array(metrics.confusion_matrix))))
        results = [
            EvalResult(
                task_type="image-classification",
                task_name="Image Classification",
                dataset_type=dataset.hub_id,
                dataset_name=dataset.title,
                dataset_config=dataset.configuration,
                dataset_split="test",
                metric_type=kind,
                metric_name=title,
                metric_value=round(percent / 100, 6),
            )
            for kind, title, percent in measured
        ]
        card_data.datasets, card_data.model_name, card_data.eval_results = [dataset.hub_id], name, results
    return card_data.to_yaml()
