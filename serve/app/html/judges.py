"""All networks' votes on a drawing in one row. Pure functions; all text from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from serve.app.html.results import percent, title
from serve.app.inference import Prediction
from serve.images.digits import Problem

DARE = "Fool them: draw a digit on which they disagree."


def fooled(predictions: Sequence[Prediction], problem: Problem | None = None) -> bool:
    """Tell whether the networks disagree: two of them name different classes, and each is sure or leans to its own."""
    verdicts = [prediction.verdict(fits=problem is None) for prediction in predictions]
    return len({verdict.classes for verdict in verdicts if len(verdict.classes) == 1}) > 1


def no_votes(models: Sequence[str]) -> str:
    """Build the row while there is nothing to read. It takes the same room: the pad must not move under a stroke."""
    cells = "".join(
        f"<li><strong>-</strong> <span>{escape(title(model))}</span> <small>no vote yet</small></li>"
        for model in models
    )
    return f'<ul class="judges" aria-label="What each network says">{cells}</ul><p class="fool">{DARE}</p>'


def votes(predictions: Sequence[Prediction], problem: Problem | None = None) -> str:
    """Build the row of what each network says, and what to try; if they are fooled, a card of it can be saved."""
    cells = []
    for prediction in predictions:
        verdict = prediction.verdict(fits=problem is None)
        said = " or ".join(prediction.labels[index] for index in verdict.classes) or "?"
        share = percent(float(prediction.probabilities[prediction.best]))
        cells.append(
            f'<li class="{verdict.tone}"><strong>{escape(said)}</strong> <span>{escape(title(prediction.model))}</span>'
            f" <small>{verdict.words}, {share}</small></li>"
        )
    if fooled(predictions, problem):
        end = (
            '<p class="fool" role="status">You have fooled them: they disagree.</p>'
            '<button type="button" class="save-card">Save it as a card</button>'
        )
    elif len(predictions) > 1:
        end = f'<p class="fool" role="status">{DARE}</p>'
    else:
        end = ""
    return f'<ul class="judges" aria-label="What each network says">{"".join(cells)}</ul>{end}'
