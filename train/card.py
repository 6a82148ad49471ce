"""The README.md of a published model, and the project's table of them: every figure from `metrics.json`."""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from train import data, paper

CHANGES = {
    "vanilla_vgg16": "torchvision's `vgg16` with a head for ten classes",
    "vanilla_resnet18": "torchvision's `resnet18` with a head for ten classes",
    "vanilla_googlenet": "torchvision's `googlenet` with a head for ten classes",
    "improved_vgg16": (
        "VGG16 with BatchNorm after every convolution and a 5x5 adaptive max pool in the place of the 7x7 average pool"
    ),
    "improved_resnet18": "ResNet18 with a stem of three 3x3 convolutions and dropout of 0.1 before the classifier",
    "improved_googlenet": "GoogLeNet with a stem of three 3x3 convolutions in the place of the 7x7 one",
}


def render(folder: Path) -> str:
    """The text of a card folder's README.md, from its `metrics.json` and `config.json`."""
    metrics = json.loads((folder / "metrics.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    model, dataset = metrics["model"], metrics["dataset"]
    title = paper.TITLES.get(dataset, dataset)
    return "\n".join(
        [
            "---",
            _header(folder.name, metrics, title),
            "---",
            "",
            f"# {folder.name}",
            "",
            f"{CHANGES.get(model, model)}, trained on {title}. Part of a model zoo for *Deep Networks for Image "
            "Classification* (Skoularikis, 2021).",
            "",
            *_figures(metrics, title),
            *_usage(folder.name, model, config),
            *_training(metrics),
            *_limits(dataset, config, metrics),
        ]
    )


TABLE_BEGIN, TABLE_END = "<!-- published: begin -->", "<!-- published: end -->"


def with_table(readme: str, cards: list[Path]) -> str:
    """The project's README with its table of published models made anew, between the two comments that mark it."""
    rows = [
        "| weights | test accuracy, % | the paper's | ONNX fp32 / int8 | training |",
        "|---|---|---|---|---|",
    ]
    for folder in cards:
        metrics = json.loads((folder / "metrics.json").read_text())
        reported = metrics["paper_test_accuracy"]
        onnx = metrics["onnx_test_accuracy"]
        rows.append(
            f"| [`{folder.name}`](model_cards/{folder.name}) | {metrics['test_accuracy']:.2f} "
            f"| {'-' if reported is None else f'{reported:.2f}'} | {onnx['fp32']:.2f} / {onnx['int8']:.2f} "
            f"| recipe `{metrics['recipe']}`, {metrics['epochs']} epochs, seed {metrics['seed']}, {metrics['device']} |"
        )
    before, rest = readme.split(TABLE_BEGIN)
    return "\n".join([before + TABLE_BEGIN, *rows, TABLE_END]) + rest.split(TABLE_END)[1]


def _header(name: str, metrics: dict, title: str) -> str:
    dataset = metrics["dataset"]
    result = EvalResult(
        task_type="image-classification",
        dataset_type=data.HUB_IDS.get(dataset, dataset),
        dataset_name=title,
        dataset_split="test",
        metric_type="accuracy",
        metric_name="Accuracy",
        metric_value=round(metrics["test_accuracy"] / 100, 6),
    )
    return ModelCardData(
        license="apache-2.0",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm"],
        datasets=[data.HUB_IDS.get(dataset, dataset)],
        model_name=name,
        eval_results=[result],
    ).to_yaml()


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
    per_class = [f"| {name} | {value:.2f} |" for name, value in metrics["per_class_accuracy"].items()]
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
    ]


def _usage(name: str, model: str, config: dict) -> list[str]:
    _, height, width = config["pretrained_cfg"]["input_size"]
    image = "digit.png" if config["image_size"][2] == 1 else "picture.png"
    mode = "L" if config["image_size"][2] == 1 else "RGB"
    return [
        "## Usage",
        "",
        "```python",
        "import timm, torch, zoo  # zoo registers the models",
        "from PIL import Image",
        "",
        f'model = timm.create_model("{name}", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f'image = Image.open("{image}").convert("{mode}")',
        "probabilities = model(transform(image)[None]).softmax(1)[0]",
        f"labels = {json.dumps(config['label_names'])}",
        "print(labels[probabilities.argmax()])",
        "```",
        "",
        f"The network sees {width}x{height} pixels; the transform enlarges the dataset's "
        f"{config['image_size'][1]}x{config['image_size'][0]} ones. From a copy of this folder: "
        f'`timm.create_model("local-dir:{name}", pretrained=True)`. As ONNX, with all preprocessing in the graph: '
        f"`python train/export.py {name}`.",
        "",
    ]


def _training(metrics: dict) -> list[str]:
    settings = metrics["settings"]
    augmentation = {
        key: value for key, value in settings["augmentation"].items() if value not in (0, 0.0, "none", [1.0, 1.0])
    }
    hours, minutes = divmod(round(metrics["train_seconds"] / 60), 60)
    overrides = f" --epochs {settings['epochs']}"
    start = f"the weights of {metrics['pretrained']}" if metrics["pretrained"] else "random weights"
    return [
        "## Training",
        "",
        "```",
        f"accelerate launch train/fit.py --model {metrics['model']} --dataset {metrics['dataset']} "
        f"--recipe {metrics['recipe']}{overrides} --seed {metrics['seed']}",
        "```",
        "",
        f"One run, seed {metrics['seed']}, from {start}, {metrics['epochs']} epochs of "
        f"{metrics['train_images']:,} images; "
        "the weights are those after the last epoch. "
        f"Recipe `{metrics['recipe']}`: batch {settings['batch_size']}, {settings['schedule']} learning rate "
        f"{settings['learning_rate']:g}, SGD with momentum {settings['momentum']:g}"
        f"{' (Nesterov)' if settings['nesterov'] else ''}, weight decay {settings['weight_decay']:g}"
        f"{'' if settings['decay_norms_and_biases'] else ' on matrices only'}, label smoothing "
        f"{settings['label_smoothing']:g}{_sizes(settings)}; augmentation: "
        f"{', '.join(f'{key} {_plain(value)}' for key, value in augmentation.items()) or 'none'}.",
        "",
        f"Hardware: {metrics['device']}, CPU threads: {metrics['threads']}; {hours} h {minutes} min of training "
        f"({metrics['images_per_second']:.0f} images/s) in {_gigabytes(metrics)}, "
        f"{metrics['mixed_precision']} mixed precision. "
        f"torch {metrics['versions']['torch']}, timm {metrics['versions']['timm']}, commit `{metrics['git_commit']}`.",
        "",
    ]


def _sizes(settings: dict) -> str:
    """How the input grows, where it does."""
    stages = [
        f"{share:g} of the side until {100 * until:g} % of the epochs" for until, share in settings.get("sizes", [])
    ]
    return f"; input size {', '.join(stages)}, then whole" if stages else ""


def _gigabytes(metrics: dict) -> str:
    memory = f"{metrics['host_memory_bytes'] / 1e9:.1f} GB of memory"
    if metrics["device_memory_bytes"]:
        memory += f" and {metrics['device_memory_bytes'] / 1e9:.1f} GB of the GPU's"
    return memory


def _plain(value: object) -> str:
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def _limits(dataset: str, config: dict, metrics: dict) -> list[str]:
    hardest = sorted(metrics["per_class_accuracy"], key=metrics["per_class_accuracy"].__getitem__)[:2]
    classes = ", ".join(config["label_names"])
    lines = [
        f"- It knows {len(config['label_names'])} classes: {classes}. Anything else gets one of them too, at times "
        "with confidence.",
        f"- Its weakest classes on the test split are {hardest[0]} and {hardest[1]}.",
    ]
    if dataset == "mnist":
        lines.append(
            "- It expects a white digit on black, 20 pixels at its longest side, centred by its mass in 28x28 pixels, "
            "as MNIST's are. A photograph or a drawing has to be brought to that form first."
        )
    else:
        lines.append(
            "- It was trained on pictures of 32x32 pixels: a large photograph is reduced to that, and what matters has "
            "to fill it."
        )
    lines.append(
        "- The figures are those of the stored weights, read back as above. Before storing, the network had "
        f"{metrics['trained_test_accuracy']:.2f} % on the test split."
    )
    return ["## Limits", "", *lines, ""]
