"""Every figure in every card computed again from the published weights: `python train/verify.py`, or `make verify`.

With torch, ONNX fp32 and int8, on the complete test split; with `--samples` on the 1,000 images of it that ship with
the project, which needs no dataset and takes seconds a model. It fails on any difference.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train import card, data, evaluate, export, measure, models

# Float sums differ in their last bits between processors, and with them an image at the border of two classes;
# quantised activations can round the other way in every layer. Shares of the images; one image is always allowed.
TOLERANCE = {"torch": 0.0002, "fp32": 0.0002, "int8": 0.001}


def figures(folder: Path, test: data.Split) -> dict[str, Any]:
    """What `metrics.json` states of a published model's weights and ONNX files, measured on a test split."""
    model, config = models.load_card(folder)
    labels = test.labels.numpy()
    logits = evaluate.torch_outputs(model, test)
    onnx = {
        precision: measure.accuracies(
            export.predict(folder / file, test.images).argmax(1), labels, config["label_names"]
        )["test_accuracy"]
        for precision, file in export.FILES.items()
    }
    return {
        **measure.accuracies(logits.argmax(1), labels, config["label_names"]),
        "onnx_test_accuracy": onnx,
        "safetensors_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "parameters": measure.parameters(model),
    }


def differences(folder: Path, data_dir: Path | None, samples: bool) -> Iterator[str]:
    """What a card states and what is not so, a line each."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for file in export.FILES.values():
        if not (folder / file).is_file():
            yield f"{file} is not built: python train/export.py {folder.name}"
            return
    test = data.load(metrics["dataset"], export.SAMPLES if samples else data_dir).test
    yield from compare(metrics["samples"] if samples else metrics, figures(folder, test))
    if (folder / "README.md").read_text() != card.render(folder):
        yield "README.md is not what metrics.json gives"


def compare(stated: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Differences beyond the tolerance between two sets of figures, as `figures` gives them."""
    for name in ("safetensors_sha256", "parameters", "test_images"):
        if stated[name] != found[name]:
            yield f"{name} is {found[name]}, the card states {stated[name]}"
    accuracies = {
        "torch": (found["test_accuracy"], stated["test_accuracy"]),
        **{
            precision: (value, stated["onnx_test_accuracy"][precision])
            for precision, value in found["onnx_test_accuracy"].items()
        },
    }
    images = stated["test_images"]
    allowed = {runtime: max(1, share * images) for runtime, share in TOLERANCE.items()}
    for runtime, (value, claim) in accuracies.items():
        if abs(value - claim) * images / 100 > allowed[runtime] + 0.5:
            yield f"test accuracy with {runtime} is {value:.2f} %, the card states {claim:.2f} %"
    confusion, claimed = np.array(found["confusion_matrix"]), np.array(stated["confusion_matrix"])
    # One image that changes its class changes two cells.
    if confusion.shape != claimed.shape or np.abs(confusion - claimed).sum() > 2 * allowed["torch"]:
        yield "the confusion matrix is another than the card's"
    total = claimed.sum(1)
    for name, value, mine, n in zip(
        stated["per_class_accuracy"], stated["per_class_accuracy"].values(), claimed.diagonal(), total, strict=True
    ):
        if abs(value - 100 * mine / n) > 0.001:
            yield f"accuracy of {name} is {value:.2f} % in the card, {100 * mine / n:.2f} % by its own confusion matrix"
    if abs(stated["test_accuracy"] - 100 * claimed.trace() / total.sum()) > 0.001:
        yield "the card's accuracy does not follow from its own confusion matrix"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python train/verify.py", description=__doc__)
    parser.add_argument("models", nargs="*", help="names like improved_googlenet.mnist, or folders (default: all)")
    parser.add_argument("--samples", action="store_true", help="on the images that ship with the project")
    parser.add_argument("--data-dir", type=Path, help="holds mnist/ and cifar10/ (default: $ZOO_DATA_DIR, or the Hub)")
    args = parser.parse_args(argv)
    try:
        folders = [models.card(name) for name in args.models] or models.cards()
        if not folders:
            raise models.ModelError(f"no published models in {models.MODEL_CARDS}")
        wrong = 0
        for folder in folders:
            found = list(differences(folder, args.data_dir, args.samples))
            wrong += len(found)
            print(f"{folder.name}: {'; '.join(found) or 'as stated'}", flush=True)
    except (models.ModelError, data.DataError) as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
