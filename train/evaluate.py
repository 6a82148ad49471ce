"""Test figures of a published model or a run: `python train/evaluate.py improved_googlenet.mnist`."""

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from train import data, export, figures, loop, measure, models
from train.files import write_json
from train.preprocess import Preprocess

RUNTIMES = ("torch", "onnx", "onnx-int8")


def evaluate(name: str, data_dir: Path | None, runtime: str = "torch") -> tuple[dict[str, Any], list[str], str]:
    """Figures on the test split of the dataset that a model was trained on, its class names, and its title.

    Args:
        name: a published model's name or folder, or a run folder.
        runtime: "torch", or "onnx" and "onnx-int8" for the files that `train/export.py` built.

    Raises:
        models.ModelError, data.DataError: the model or its data cannot be had.
    """
    if (Path(name) / "args.json").is_file():
        if runtime != "torch":
            raise models.ModelError(f"{name} is a run: publish it, then evaluate the published model with {runtime}")
        model, run = models.load_run(Path(name))
        dataset_name, class_names, title = run["dataset"], run["class_names"], Path(name).name
    else:
        card = models.card(name)
        model, config = models.load_card(card)
        dataset_name, class_names, title = config["dataset"], config["label_names"], card.name
    test = data.load(dataset_name, data_dir, models.pretrained_cfg(model)["input_size"][-1]).test
    if runtime == "torch":
        logits = torch_logits(model, test)
    else:
        file = card / export.FILES["int8" if runtime == "onnx-int8" else "fp32"]
        if not file.is_file():
            raise models.ModelError(f"{file} is not built yet: python train/export.py {card.name}")
        logits = export.predict(file, test.images)
    return measure.accuracies(logits.argmax(1), test.labels.numpy(), class_names), class_names, title


def torch_logits(model: torch.nn.Module, split: data.Split) -> np.ndarray:
    """Logits float32 [n, classes], in full precision, on the GPU where there is one."""
    accelerator = Accelerator(mixed_precision="no")
    model = model.to(accelerator.device)
    preprocess = Preprocess(models.pretrained_cfg(model)).to(accelerator.device)
    return loop.predict(model, split.to(accelerator.device), preprocess, accelerator).cpu().numpy()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python train/evaluate.py", description=__doc__)
    parser.add_argument("model", help="a published model's name or folder, or a run folder")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch", help="default: torch")
    parser.add_argument("--output-dir", type=Path, help="write figures.json and confusion_matrix.png there")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        found, class_names, title = evaluate(args.model, args.data_dir, args.runtime)
    except (models.ModelError, data.DataError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    print(f"{title}: test accuracy {found['test_accuracy']:.2f} % on {found['test_images']:,} images ({args.runtime})")
    width = max(map(len, class_names))
    for label, accuracy in found["per_class_accuracy"].items():
        print(f"  {label:<{width}} {accuracy:6.2f} %")
    if args.output_dir:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / "figures.json", found)
        figures.confusion_matrix(
            np.array(found["confusion_matrix"]), class_names, title, args.output_dir / "confusion_matrix.png"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
