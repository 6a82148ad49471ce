"""Tables and explanations as HTML: models side by side, heat maps, confusions, published results.

Pure functions; all text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from serve.app.html.results import PROBLEMS, bars, message, percent, png, title, webp
from serve.app.html.results import says as verdict_html
from serve.app.inference import KINDS, Pixels, Prediction, dataset_of, kind_of
from serve.app.inside import ClassMap
from serve.app.model_cards import Card, mistakes
from serve.app.occlusion import COPIES, OcclusionMap, overlay
from serve.engine.models import ModelInfo
from serve.images.digits import Problem

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
NONE = "-"
PAPER = "In the paper"
ONE_PLACE = (
    " Images of this size leave this network a last map of a single place: a class activation map could not tell where."
)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Build a table from cells of HTML. Each cell has its column's name: narrow screens show a row as named lines."""
    # The paper has nothing on models of one's own.
    if PAPER in head and all(row[head.index(PAPER)] == NONE for row in rows):
        at = head.index(PAPER)
        head, rows = [*head[:at], *head[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]
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


def dataset_title(tag: str) -> str:
    """Write a dataset's tag for people."""
    return TITLES.get(tag, tag)


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
    pixels: Pixels,
    predictions: Sequence[Prediction],
    cards: Mapping[str, Card],
    models: Mapping[str, ModelInfo],
    problem: Problem | None = None,
) -> str:
    """Build the table of the models' predictions for one image, in the order given.

    Args:
        pixels: the image as the first model sees it.
        predictions: of models with the same classes.
        cards: the published cards by name.
        models: those that run, by name.
        problem: what is wrong with a digit.
    """
    winner = _winner(predictions, problem)
    rows = []
    for prediction in predictions:
        card, info = cards.get(prediction.model), models.get(prediction.model)
        share = float(prediction.probabilities[prediction.best])
        verdict = prediction.verdict(fits=problem is None)
        named = " or ".join(prediction.labels[index] for index in verdict.classes or (prediction.best,))
        style = "" if verdict.classes == winner else ' class="other"'
        rows.append(
            [
                escape(title(prediction.model)),
                f"<strong{style}>{escape(named)}</strong> <small>{verdict.words}</small>",
                f'{percent(share)}<span class="track" aria-hidden="true"><i style="width:{share:.0%}"></i></span>',
                f"{1e3 * prediction.seconds:.1f} ms",
                millions(info.parameters if info else None),
                served_accuracy(info),
                accuracy(card.paper if card else None),
            ]
        )
    head = ["Model", "Says", "Probability", "Time", "Parameters", "Test accuracy", PAPER]
    table = _table(head, rows, "One picture, classified by every running model")
    return (
        f'<div class="study"><figure><img src="{png(pixels)}" alt="The picture as the models see it"></figure>'
        f'<p role="status" class="unsure">{escape(agreement(predictions, problem))}</p></div>'
        + table
        + '<p class="note">The models run one after another. Times are from request to result, including the wait in'
        " the server's queue. Test accuracy is that of the file that runs here, on its dataset's test images:"
        " fp32 keeps the weights as trained, int8 rounds them to 8 bits, which is faster."
        + (" The paper's accuracies are the means in its Tables 2 and 3." if PAPER in table else "")
        + "</p>"
    )


def _winner(predictions: Sequence[Prediction], problem: Problem | None) -> tuple[int, ...]:
    """Return the class that most models name; empty if none names one."""
    votes = [prediction.verdict(fits=problem is None).classes for prediction in predictions]
    named: list[tuple[int, ...]] = [classes for classes in votes if len(classes) == 1]
    return max(named, key=named.count) if named else ()


def agreement(predictions: Sequence[Prediction], problem: Problem | None = None) -> str:
    """Say on what the models agree. Only those that are sure of one class, or lean to it, have a vote."""
    count = len(predictions)
    winner = _winner(predictions, problem)
    agreed = sum(prediction.verdict(fits=problem is None).classes == winner for prediction in predictions)
    if problem:
        return PROBLEMS[problem]
    if not winner:
        return "No model knows what it is" if count > 1 else "The one running model does not know what it is"
    says = predictions[0].labels[winner[0]]
    if agreed == count:
        return f"All {count} models say {says}" if count > 1 else f"The one running model says {says}"
    if agreed == 1:
        return f"No two of {count} models agree"
    return f"{agreed} of {count} models say {says}"


def explanation(
    pixels: Pixels,
    prediction: Prediction,
    card: Card | None,
    found: OcclusionMap | ClassMap | None = None,
    problem: Problem | None = None,
    *,
    one_place: bool = False,
) -> str:
    """Build what the model says, its heat map, and its confusions.

    Args:
        pixels: the image as the model sees it.
        prediction: what the model predicts for it.
        card: the model's published card.
        found: the heat map, of either kind; None while it is being made.
        problem: what is wrong with a digit.
        one_place: whether the network pools a last map that is a single place.
    """
    says, scale = "The map is being made.", "effect of covering it"
    if isinstance(found, OcclusionMap):
        says = _covering(found, prediction) + (ONE_PLACE if one_place else "")
    elif found is not None:
        says, scale = _activating(found, prediction), f"evidence for {escape(prediction.labels[found.label])}"
    heat = (
        '<div class="pending"></div>'
        if found is None
        else f'<img src="{webp(overlay(pixels, found.heat))}" alt="Heat map over the picture">'
    )
    image = f'<img src="{png(pixels)}" alt="{{}}">'
    return (
        '<div class="study heat"><div class="maps">'
        '<figure class="cover" tabindex="0" role="application" aria-label="Cover a part: drag the square over the'
        f' image, or move it with the arrow keys">{image.format("The picture as the model sees it")}<i></i>'
        "<figcaption>Drag over it to cover a part</figcaption></figure>"
        f'<figure class="blend"><div>{image.format("")}{heat}</div>'
        '<label>Image <input type="range" min="0" max="100" value="100" aria-label="From the image to the heat map">'
        " Map</label></figure>"
        f'<p class="scale">{scale}: <span>small</span><i></i><span>large</span></p></div>'
        f'<div><div role="status">{verdict_html(prediction, problem)}</div><p class="note">{says}</p>'
        f"{confusions(card, prediction)}</div></div>"
    )


def _covering(found: OcclusionMap, prediction: Prediction) -> str:
    """Say what an occlusion map shows."""
    label = escape(prediction.labels[prediction.best])
    says = f"The warmer a spot, the more evidence for {label} is lost when it is covered. "
    if found.probability_drop < 0.05:
        least = percent(1 - found.probability_drop)
        says += f"No single spot decides: whichever is covered, {label} keeps at least {least} of its probability."
    else:
        says += f"Covering one spot takes up to {percent(found.probability_drop)} of the probability of {label}."
    return (
        f"{says} For this map the model classified {COPIES} copies of the picture, each with one spot covered"
        f" ({1e3 * found.seconds:.0f} ms in all)."
    )


def _activating(found: ClassMap, prediction: Prediction) -> str:
    """Say what a class activation map shows."""
    label, (rows, columns) = escape(prediction.labels[found.label]), found.places
    says = f"The class activation map: the warmer a place, the more the network's last map counts there for {label}."
    if not found.heat.any():
        says += f" No place counts for {label}."
    return (
        f"{says} It is as coarse as that map, {rows}x{columns} places, each of which sees far beyond its own square."
        " One run of the network makes it; the map by covering takes many, and is finer."
    )


def covered_result(whole: Prediction, covered: Prediction, problem: Problem | None = None) -> str:
    """Build what a model says once a part is covered: its best classes, and those of the whole image, in one order."""
    order = list(dict.fromkeys([*whole.order[:3], *covered.order[:3]]))
    return f'<h2>With the square on it</h2><div role="status">{verdict_html(covered, problem)}</div>' + bars(
        covered, order, "bars words"
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
    return f'<h2>What it mixes up</h2><p class="note">{" ".join(lines)}</p><ol class="mistakes">{pairs}</ol>'


def published(cards: Mapping[str, Card], models: Mapping[str, ModelInfo]) -> str:
    """Build the table of all models, published or running, with their accuracies and the paper's."""
    if not cards and not models:
        return message("There is no model here yet.")

    def order(name: str) -> tuple[object, ...]:
        card, info = cards.get(name), models.get(name)
        measured = (card.accuracy if card else None) or (info.accuracy if info else None) or 0
        return KINDS.index(kind_of(name)), dataset_of(name), -measured, name

    rows = []
    for name in sorted({*cards, *models}, key=order):
        card, info = cards.get(name), models.get(name)
        parameters = (card.parameters if card else None) or (info.parameters if info else None)
        rows.append(
            [
                escape(title(name)),
                escape(dataset_title(dataset_of(name))),
                accuracy(card.accuracy if card else None),
                served_accuracy(info),
                accuracy(card.paper if card else None),
                millions(parameters),
            ]
        )
    head = ["Model", "Dataset", "Test accuracy", "Runs here at", PAPER, "Parameters"]
    return _table(head, rows, "Published models") + (
        '<p class="note">Test accuracy is that of the published weights. The ONNX file that runs here is built from'
        " them, in fp32 or rounded to int8, and its accuracy is measured separately.</p>"
    )
