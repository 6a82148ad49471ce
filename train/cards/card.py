"""The README.md of a published model: every number from `metrics.json`."""

import json
import shlex
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from train.cards import provenance, training_text
from train.data.reference import recorded
from train.files import read_json
from train.training import recipes
from zoo.catalog import DATASETS, NETWORKS


def render(folder: Path) -> str:
    """The text of a card folder's README.md, from its `metrics.json` and `config.json`.

    Raises:
        files.FileError: one of them is missing, or damaged.
    """
    metrics, config = (read_json(folder / name) for name in ("metrics.json", "config.json"))
    model, dataset = metrics["model"], metrics["dataset"]
    title = recorded(dataset).title
    return "\n".join(
        [
            "---",
            _header(folder.name, metrics, title),
            "---",
            "",
            f"# {folder.name}",
            "",
            f"{NETWORKS[model].description if model in NETWORKS else model}, trained on the "
            f"{len(config['label_names'])} classes of {title}. Part of a model zoo for "
            "*Deep Networks for Image Classification* (Skoularikis, 2021).",
            "",
            *_figures(metrics, title),
            *_usage(folder.name, config),
            *training_text.section(metrics, config),
            *_limits(dataset, config, metrics),
        ]
    )


def _header(name: str, metrics: dict, title: str) -> str:
    ref = recorded(metrics["dataset"])
    card_data = ModelCardData(
        # Of a network for one's own pictures, whoever trained it decides.
        license="apache-2.0" if metrics["model"] in NETWORKS and ref.paper else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm"],
    )
    if ref.hub_id:
        result = EvalResult(
            task_type="image-classification",
            dataset_type=ref.hub_id,
            dataset_name=title,
            dataset_config=ref.configuration,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="Accuracy",
            metric_value=round(metrics["test_accuracy"] / 100, 6),
        )
        card_data.datasets, card_data.model_name, card_data.eval_results = [ref.hub_id], name, [result]
    return card_data.to_yaml()


def _figures(metrics: dict, title: str) -> list[str]:
    reported = metrics["paper_test_accuracy"]
    onnx = metrics["onnx_test_accuracy"]
    images = f"{metrics['test_images']:,}"
    rows = [
        f"| Test accuracy, {images} images | {metrics['test_accuracy']:.2f} % |",
        *([f"| The paper's, mean of its per-class table | {reported:.2f} % |"] if reported else []),
        f"| Validation accuracy, last epoch | {metrics['validation_accuracy']:.2f} % |",
        f"| ONNX fp32 / int8, test accuracy | {onnx['fp32']:.2f} % / {onnx['int8']:.2f} % |",
        f"| Parameters | {metrics['parameters']:,} |",
    ]
    accuracies = metrics["per_class_accuracy"].items()
    per_class = ["| {} | {:.2f} |".format(name.replace("|", "\\|"), value) for name, value in accuracies]
    return [
        "## Figures",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        f"| Class | Test accuracy on {title}, % |",
        "|---|---|",
        *per_class,
        "",
        "![Confusion matrix on the test split](confusion_matrix.png)",
        "![Loss and accuracy over the epochs](curves.png)",
        "",
        *_curves(metrics),
    ]


def _curves(metrics: dict) -> list[str]:
    """What the curves are of; why training and validation cannot be compared, where it is so."""
    recipe = recipes.of_settings(metrics["settings"])
    in_training = [
        *(["augmented images"] if recipe.augmentation != recipes.Augmentation() else []),
        *(["smoothed labels"] if recipe.label_smoothing else []),
        *(["the teacher's outputs"] if metrics.get("teacher") else []),
    ]
    sentences = []
    if in_training:
        of = provenance.listed(in_training)
        sentences.append(f"The training's curves are of {of}, the validation's of the plain images and labels.")
    if earlier := metrics.get("earlier"):
        sentences.append(f"They are of the last of {len(earlier) + 1} runs.")
    return [" ".join(sentences), ""] if sentences else []


def _pixels(config: dict) -> tuple[str, str]:
    """Width and height of the dataset's pictures and of the network's input, as "32x32"."""
    height, width, _ = config["image_size"]
    _, input_height, input_width = config["pretrained_cfg"]["input_size"]
    return f"{width}x{height}", f"{input_width}x{input_height}"


def _usage(name: str, config: dict) -> list[str]:
    own, seen = _pixels(config)
    if not recorded(config["dataset"]).paper:
        brings = "to which the pictures were cropped and resized, as the transform does it"
    elif own == seen:
        brings = "as the dataset's pictures have"
    else:
        brings = f"to which the transform brings the dataset's {own}"
    registered = name in {f"{model}.{dataset}" for model in NETWORKS for dataset in DATASETS}
    local = f"local-dir:{name}"
    image = "digit.png" if config["image_size"][2] == 1 else "picture.png"
    mode = "L" if config["image_size"][2] == 1 else "RGB"
    return [
        "## Usage",
        "",
        "```python",
        "import timm, torch, zoo  # zoo registers the models",
        "from PIL import Image",
        "",
        f'model = timm.create_model("{name if registered else local}", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f'image = Image.open("{image}").convert("{mode}")',
        "with torch.inference_mode():",
        "    probabilities = model(transform(image)[None]).softmax(1)[0]",
        f"labels = {json.dumps(config['label_names'])}",
        "print(labels[probabilities.argmax()])",
        "```",
        "",
        "`zoo` is a package of deep-image-zoo, the repository that this card comes from: `pip install --editable .` in "
        "a checkout of it.",
        "",
        f"The network sees {seen} pixels, {brings}. From a copy of this folder: "
        f'`timm.create_model("{local}", pretrained=True)`. '
        f"As ONNX, with all preprocessing in the graph: `python train/export.py {shlex.quote(name)}`.",
        "",
    ]


def _limits(dataset: str, config: dict, metrics: dict) -> list[str]:
    hardest = sorted(metrics["per_class_accuracy"], key=metrics["per_class_accuracy"].__getitem__)[:2]
    classes = ", ".join(config["label_names"])
    lines = [
        f"- It knows {len(config['label_names'])} classes: {classes}. Anything else gets one of them too, at times "
        "with confidence.",
        f"- Its weakest classes on the test split are {hardest[0]} and {hardest[1]}.",
    ]
    if metrics["model"] in NETWORKS and recorded(dataset).paper:
        sentences = []
        if metrics["model"].startswith("vanilla_"):
            sentences.append(
                "The paper does not say at what size its vanilla networks saw the pictures; its logs of ResNet18 and "
                f"GoogLeNet for CIFAR-10 are met at 64x64 pixels, and this one sees {_pixels(config)[1]}."
            )
        if metrics["recipe"] != "paper":
            trained = (
                "at a fixed rate and without augmentation"
                if metrics["model"].startswith("vanilla_")
                else "for 50 epochs, with another schedule and other augmentation"
            )
            sentences.append(f"The paper trained it {trained}: its figure beside ours compares two recipes too.")
        lines += [f"- {' '.join(sentences)}"] if sentences else []
    if dataset == "mnist":
        lines.append(
            "- It expects a white digit on black, 20 pixels at its longest side, centred by its mass in 28x28 pixels, "
            "as MNIST's are. A photograph or a drawing has to be brought to that form first."
        )
    else:
        own, seen = _pixels(config)
        reduced = "that" if own == seen else f"{seen} by the transform above, and to {own} for the ONNX files"
        lines.append(
            f"- It was trained on pictures {'of' if recorded(dataset).paper else 'brought to'} {own} pixels: a large "
            f"photograph is reduced to {reduced}, and what matters has to fill it."
        )
    lines.append(
        "- The figures are those of the stored weights, read back as above. Before storing, the network had "
        f"{metrics['trained_test_accuracy']:.2f} % on the test split."
    )
    return ["## Limits", "", *lines, ""]
