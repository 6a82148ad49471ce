"""Tables and explanations as HTML: models side by side, heat maps, confusions, published results.

Pure functions; all text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from serve.app.inference import Pixels, Prediction
from serve.app.model_cards import Card, mistakes
from serve.app.occlusion import GRID, OcclusionMap, overlay
from serve.app.result_html import percent, png, title
from serve.engine.models import ModelInfo

DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
NONE = "-"
# A smaller drop of the log-odds makes a heat map paler. This one takes a probability of 50 % to 38 %.
SMALL_DROP = 0.5


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Build a table from cells of HTML. Each cell has its column's name: narrow screens show a row as named lines."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{row[0]}</th>'
        + "".join(f'<td data-name="{escape(name)}">{cell}</td>' for name, cell in zip(head[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    caption = f'<caption class="visually-hidden">{escape(caption)}</caption>'
    return f'<table class="results">{caption}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def accuracy(value: float | None) -> str:
    """Write an accuracy in percent, or a dash."""
    return NONE if value is None else f"{value:.2f} %"


def served_accuracy(info: ModelInfo | None) -> str:
    """Write the test accuracy and the precision of the file that runs here; that of the published weights differs."""
    return NONE if info is None or info.accuracy is None else f"{info.accuracy:.2f} % in {info.precision}"


def millions(count: int | None) -> str:
    """Write a number of parameters in millions, or a dash."""
    return NONE if count is None else f"{count / 1e6:.1f} M"


def comparison(
    pixels: Pixels, predictions: Sequence[Prediction], cards: Mapping[str, Card], models: Mapping[str, ModelInfo]
) -> str:
    """Build the table of the models' predictions for one image, in the order given; `models` are those that run."""
    votes = [prediction.best for prediction in predictions]
    agreed = max(votes.count(vote) for vote in votes)
    winner = max(votes, key=votes.count)
    says = predictions[0].labels[winner]
    rows = []
    for prediction in predictions:
        card, info = cards.get(prediction.model), models.get(prediction.model)
        share = float(prediction.probabilities[prediction.best])
        style = "" if prediction.best == winner else ' class="other"'
        rows.append(
            [
                escape(title(prediction.model)),
                f"<strong{style}>{escape(prediction.labels[prediction.best])}</strong>",
                f'{percent(share)}<span class="track" aria-hidden="true"><i style="width:{share:.0%}"></i></span>',
                f"{1e3 * prediction.seconds:.1f} ms",
                millions(info.parameters if info else None),
                served_accuracy(info),
                accuracy(card.paper if card else None),
            ]
        )
    everyone = f"All {len(predictions)} models say" if len(predictions) > 1 else "The one running model says"
    if agreed == len(predictions):
        verdict = f"{everyone} {says}"
    elif agreed == 1:
        verdict = f"No two of {len(predictions)} models agree"
    else:
        verdict = f"{agreed} of {len(predictions)} models say {says}"
    head = ["Model", "Says", "Probability", "Time", "Parameters", "Test accuracy", "In the paper"]
    return (
        f'<div class="study"><figure><img src="{png(pixels)}" alt="The picture as the models see it"></figure>'
        f'<p role="status" class="unsure">{escape(verdict)}</p></div>'
        + _table(head, rows, "One picture, classified by every running model")
        + '<p class="note">The models run one after another. Times are from request to result, including the wait in'
        " the server's queue. Test accuracy is that of the file that runs here, on the dataset's 10,000 test images:"
        " fp32 keeps the weights as trained, int8 rounds them to 8 bits, which is faster. The paper's accuracies are"
        " the means in its Tables 2 and 3.</p>"
    )


def explanation(pixels: Pixels, found: OcclusionMap, card: Card | None) -> str:
    """Build the heat map, an explanation of it, and the model's confusions."""
    prediction = found.prediction
    label = escape(prediction.labels[prediction.best])
    share = percent(float(prediction.probabilities[prediction.best]))
    # Each map is scaled to its own maximum. Without this, a map of tiny drops would glow like any other.
    heat = found.heat * np.float32(min(1, found.log_odds_drop / SMALL_DROP))
    says = f"The warmer a spot, the more evidence for {label} is lost when it is covered. "
    if found.probability_drop < 0.05:
        least = percent(1 - found.probability_drop)
        says += f"No single spot decides: whichever is covered, {label} keeps at least {least} of its probability."
    else:
        says += f"Covering one spot takes up to {percent(found.probability_drop)} of the probability of {label}."
    method = (
        f"For this map the model classified {GRID * GRID} copies of the picture, each with one spot covered"
        f" ({1e3 * found.seconds:.0f} ms in all)."
    )
    return (
        f'<div class="study heat"><figure><img src="{png(overlay(pixels, heat))}" alt="Heat map over the picture">'
        f'<figcaption class="scale">effect of covering it: <span>small</span><i></i><span>large</span>'
        "</figcaption></figure>"
        f'<div><p class="says" role="status">{label} <small>{share}</small></p><p class="note">{says}</p>'
        f'<p class="note">{method}</p>{confusions(card, prediction)}</div></div>'
    )


def confusions(card: Card | None, prediction: Prediction) -> str:
    """Write the model's confusions on its dataset's test images: of the predicted class, and the most frequent."""
    counts = card.confusion if card else None
    if counts is None or len(counts) != len(prediction.labels):
        return '<p class="note">No confusion matrix is published with this model.</p>'
    labels = [escape(label) for label in prediction.labels]
    best = prediction.best
    said, right = int(counts[:, best].sum()), int(counts[best, best])
    lines = [f"Of {said:,} test images that the published weights called {labels[best]}, {right:,} were."]
    others = [(int(counts[i, best]), labels[i]) for i in np.argsort(-counts[:, best], kind="stable") if i != best]
    wrong = ", ".join(f"{label} ({count})" for count, label in others[:3] if count)
    if wrong:
        lines.append(f"The others were {wrong}.")
    pairs = "".join(
        f"<li>{labels[true]} taken for {labels[called]}: {count}</li>" for true, called, count in mistakes(counts)
    )
    return f'<h3>What it mixes up</h3><p class="note">{" ".join(lines)}</p><ol class="mistakes">{pairs}</ol>'


def published(cards: Mapping[str, Card], models: Mapping[str, ModelInfo]) -> str:
    """Build the table of all models with their accuracies and the paper's; `models` are those that run."""
    rows = [
        [
            escape(title(card.name)),
            escape(DATASETS.get(card.dataset, card.dataset)),
            accuracy(card.accuracy),
            served_accuracy(models.get(card.name)),
            accuracy(card.paper),
            millions(card.parameters),
        ]
        for card in sorted(cards.values(), key=lambda card: (card.dataset != "mnist", -(card.accuracy or 0)))
    ]
    head = ["Model", "Dataset", "Test accuracy", "Runs here at", "In the paper", "Parameters"]
    return _table(head, rows, "Published models") + (
        '<p class="note">Test accuracy is that of the published weights. The ONNX file that runs here is built from'
        " them, in fp32 or rounded to int8, and its accuracy is measured separately.</p>"
    )
