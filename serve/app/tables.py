"""The app's tables as HTML: models side by side, confusions, published figures. Text from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from serve.app.answer import Answer, Pixels, percent, png, title
from serve.app.cards import Card, mistakes
from serve.app.occlusion import GRID, OcclusionMap, overlay
from serve.engine.models import ModelInfo

DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
NONE = "-"
# Drop of the log-odds below which a heat map fades: this much takes 50 % to 38 %.
SMALL_DROP = 0.5


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Build a table from cells of HTML. Each has its column's name: on a narrow screen a row becomes named lines."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{row[0]}</th>'
        + "".join(f'<td data-name="{escape(name)}">{cell}</td>' for name, cell in zip(head[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    caption = f'<caption class="visually-hidden">{escape(caption)}</caption>'
    return f'<table class="figures">{caption}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def accuracy(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} %"


def running(info: ModelInfo | None) -> str:
    """Write the test accuracy of the file that runs here, and its precision: the published weights' may differ."""
    return NONE if info is None or info.accuracy is None else f"{info.accuracy:.2f} % in {info.precision}"


def millions(count: int | None) -> str:
    return NONE if count is None else f"{count / 1e6:.1f} M"


def comparison(
    pixels: Pixels, answers: Sequence[Answer], cards: dict[str, Card], models: Mapping[str, ModelInfo]
) -> str:
    """Build the table of the models' answers to one picture, in the order given; `models` tells what runs here."""
    votes = [answer.best for answer in answers]
    agreed = max(votes.count(vote) for vote in votes)
    winner = max(votes, key=votes.count)
    says = answers[0].labels[winner]
    rows = []
    for answer in answers:
        card, info = cards.get(answer.model), models.get(answer.model)
        share = float(answer.probabilities[answer.best])
        style = "" if answer.best == winner else ' class="other"'
        rows.append(
            [
                escape(title(answer.model)),
                f"<strong{style}>{escape(answer.labels[answer.best])}</strong>",
                f'{percent(share)}<span class="track" aria-hidden="true"><i style="width:{share:.0%}"></i></span>',
                f"{1e3 * answer.seconds:.1f} ms",
                millions(info.parameters if info else None),
                running(info),
                accuracy(card.paper if card else None),
            ]
        )
    everyone = f"All {len(answers)} models say" if len(answers) > 1 else "The one running model says"
    if agreed == len(answers):
        verdict = f"{everyone} {says}"
    elif agreed == 1:
        verdict = f"No two of {len(answers)} models agree"
    else:
        verdict = f"{agreed} of {len(answers)} models say {says}"
    head = ["Model", "Says", "Probability", "Time", "Parameters", "Test accuracy", "In the paper"]
    return (
        f'<div class="study"><figure><img src="{png(pixels)}" alt="The picture as the models see it"></figure>'
        f'<p role="status" class="unsure">{escape(verdict)}</p></div>'
        + _table(head, rows, "One picture through every running model")
        + '<p class="note">Time is from question to answer, one model after another, the server\'s queue included.'
        " Test accuracy is that of the file that runs here, over the dataset's 10,000 test images: fp32 is as trained,"
        " int8 is rounded to 8 bits, which is faster. The paper's figures are the means of its Tables 2 and 3.</p>"
    )


def explanation(pixels: Pixels, found: OcclusionMap, card: Card | None) -> str:
    """Build the heat map, a line on what it is, and what the model takes for what."""
    answer = found.answer
    label = escape(answer.labels[answer.best])
    share = percent(float(answer.probabilities[answer.best]))
    # Each map is scaled to its own maximum: without this, one of next to nothing would glow like any other.
    heat = found.heat * np.float32(min(1, found.log_odds_drop / SMALL_DROP))
    says = f"The warmer a place, the more evidence for {label} is lost when it is covered. "
    if found.probability_drop < 0.05:
        least = percent(1 - found.probability_drop)
        says += f"No single spot decides: whichever is covered, {label} keeps at least {least} of its probability."
    else:
        says += f"At most, {label} loses {percent(found.probability_drop)} of its probability."
    method = (
        f"Measured from outside: the model was shown {GRID * GRID} copies of the picture, each with one spot covered"
        f" ({1e3 * found.seconds:.0f} ms in all)."
    )
    return (
        f'<div class="study heat"><figure><img src="{png(overlay(pixels, heat))}" alt="Heat map on the picture">'
        f'<figcaption class="scale">covered, it matters <span>less</span><i></i><span>more</span></figcaption></figure>'
        f'<div><p class="says" role="status">{label} <small>{share}</small></p><p class="note">{says}</p>'
        f'<p class="note">{method}</p>{confusions(card, answer)}</div></div>'
    )


def confusions(card: Card | None, answer: Answer) -> str:
    """Write what the model took for what among its dataset's test images, for the class it names now and overall."""
    counts = card.confusion if card else None
    if counts is None or len(counts) != len(answer.labels):
        return '<p class="note">No confusion matrix is published with this model.</p>'
    labels = [escape(label) for label in answer.labels]
    best = answer.best
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


def published(cards: dict[str, Card], models: Mapping[str, ModelInfo]) -> str:
    """Build the table of all models with their figures beside the paper's; `models` tells which run here, and how."""
    rows = [
        [
            escape(title(card.name)),
            escape(DATASETS.get(card.dataset, card.dataset)),
            accuracy(card.accuracy),
            running(models.get(card.name)),
            accuracy(card.paper),
            millions(card.parameters),
        ]
        for card in sorted(cards.values(), key=lambda card: (card.dataset != "mnist", -(card.accuracy or 0)))
    ]
    head = ["Model", "Dataset", "Test accuracy", "Runs here at", "In the paper", "Parameters"]
    return _table(head, rows, "Published models") + (
        '<p class="note">Test accuracy is that of the published weights. What runs here is an ONNX file made of them,'
        " in fp32 or rounded to int8, and is measured separately.</p>"
    )
