"""The table of published models in the project's README: every figure from a card's `metrics.json`."""

from pathlib import Path
from urllib.parse import quote

from train.cards import training_text
from train.files import read_json, write_text
from train.training import models

BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"


def with_rows(readme: str, cards: list[Path]) -> str:
    """The project's README with its table of published models made anew, between the two comments that mark it."""
    rows = [
        "| weights | test accuracy, % | the paper's, mean of its classes | ONNX fp32 / int8 | training |",
        "|---|---|---|---|---|",
    ]
    for folder in cards:
        metrics = read_json(folder / "metrics.json")
        reported = metrics["paper_test_accuracy"]
        onnx = metrics["onnx_test_accuracy"]
        epochs = training_text.all_epochs(metrics)
        rows.append(
            f"| [`{folder.name}`](model_cards/{quote(folder.name)}) | {metrics['test_accuracy']:.2f} "
            f"| {'-' if reported is None else f'{reported:.2f}'} | {onnx['fp32']:.2f} / {onnx['int8']:.2f} "
            f"| recipe {training_text.recipe_and_teacher(metrics)}, {epochs} epochs, seed {metrics['seed']}, "
            f"{metrics['device']} |"
        )
    before, rest = readme.split(BEGIN)
    return "\n".join([before + BEGIN, *rows, END]) + rest.split(END)[1]


def write() -> None:
    """Make the table in the checkout's README.md anew, where the published models are the checkout's own."""
    if models.MODEL_CARDS.resolve() == models.REPOSITORY / "model_cards":
        readme = models.REPOSITORY / "README.md"
        write_text(readme, with_rows(readme.read_text(), models.cards()))
