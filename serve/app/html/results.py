"""Predictions as HTML. Pure functions; all text from outside is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

from PIL import Image

from serve.app.inference import Pixels, Prediction
from serve.images.digits import Digit, Problem
from serve.images.sheet import Sheet

PROBLEMS: dict[Problem, str] = {
    "blank": "Nothing to read yet: draw one digit, 0 to 9.",
    "dot": "That is only a dot. Draw one digit, 0 to 9.",
    "cut": "The square cuts the digit: make it larger.",
    "several": "This looks like more than one digit. One at a time, please.",
    "scribble": "This does not look like a digit.",
}
# Of a photo that a visitor has chosen, and of the square that crops it.
OF_PHOTO: dict[Problem, str] = PROBLEMS | {
    "blank": "No digit was found in this photo. Crop it to one.",
    "dot": "There is only a dot. Crop the photo to a digit.",
    "several": "There is more than one digit: crop the photo to one.",
}
OF_SQUARE: dict[Problem, str] = OF_PHOTO | {
    "blank": "No digit was found in the square. Move it, or make it larger.",
    "dot": "There is only a dot in the square. Move it to a digit.",
    "several": "There is more than one digit in the square: make it smaller.",
}
HEADS: dict[Problem | None, str] = {"several": "More than one digit"}
# The most classes that are listed below a picture's result.
MOST_LABELS = 20
FAMILIES = {"vgg16": "VGG16", "resnet18": "ResNet18", "googlenet": "GoogLeNet"}


def title(model: str) -> str:
    """Write a model's name for people: "Improved GoogLeNet" for `improved_googlenet.mnist`, "resnet50" for others."""
    name = model.partition(".")[0]
    kind, _, family = name.partition("_")
    return f"{kind.capitalize()} {FAMILIES[family]}" if family in FAMILIES else name


def percent(share: float) -> str:
    """Write a share from 0 to 1 as a percentage."""
    return f"{100 * share:.1f} %"


def png(pixels: Pixels) -> str:
    """Encode uint8 [H, W, C] as a data URL, exactly: such small images are not worth a second request."""
    return _data_url(pixels, "PNG")


def webp(pixels: Pixels) -> str:
    """Encode uint8 [H, W, C] as a data URL for looking at: a fifth of the bytes of a PNG."""
    return _data_url(pixels, "WEBP", quality=80)


def _data_url(pixels: Pixels, kind: str, **options: int) -> str:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def message(text: str, more: str = "") -> str:
    """Build a panel with a line of text in place of a result, and `more` HTML below it."""
    return _panel(None, f'<p class="unsure">{escape(text[:1].upper() + text[1:])}</p>{more}', "")


def digit_result(digit: Digit, prediction: Prediction | None, problems: Mapping[Problem, str] = PROBLEMS) -> str:
    """Build the panel of a prepared digit and its prediction; without a prediction, of what is missing.

    Args:
        digit: what was read.
        prediction: of it.
        problems: what to say of each problem.
    """
    if digit.pixels is None or prediction is None:
        return message(problems[digit.problem or "blank"], _outline(digit.sheet))
    rows = bars(prediction, range(len(prediction.labels)), "bars digits")
    words = says(prediction, digit.problem, problems)
    return _panel(png(digit.pixels), words + _timing(prediction) + _outline(digit.sheet), rows)


def _outline(sheet: Sheet | None) -> str:
    """Write where the sheet is that was read, if there is one; squares.js draws its outline over the photo."""
    if sheet is None:
        return ""
    corners = " ".join(f"{x:.3f},{y:.3f}" for x, y in sheet.corners)
    return f'<p class="note" data-corners="{corners}">Of this photo, the outlined sheet was read.</p>'


def picture_result(pixels: Pixels, prediction: Prediction) -> str:
    """Build the panel of a picture, its prediction and the classes that the model knows."""
    labels = prediction.labels
    shown = (
        ", ".join(labels[:MOST_LABELS]) if len(labels) > MOST_LABELS else f"{', '.join(labels[:-1])} and {labels[-1]}"
    )
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    only = f'<p class="note only">It knows {len(labels)} classes: {escape(shown)}{more}.</p>'
    rows = bars(prediction, prediction.order[:5], "bars words")
    return _panel(png(pixels), says(prediction) + _timing(prediction), rows + only)


def says(prediction: Prediction, problem: Problem | None = None, problems: Mapping[Problem, str] = PROBLEMS) -> str:
    """Write what a model says: one verdict, in the same words on all tabs.

    A `problem` of a digit, which `problems` words, makes it no digit.
    """
    verdict = prediction.verdict(fits=problem is None)
    if not verdict.classes:
        head = HEADS.get(problem, f"{verdict.words[:1].upper()}{verdict.words[1:]}")
        reason = f"{problems[problem]} " if problem else ""
        near = " and ".join(_named(prediction, index) for index in prediction.order[:2])
        return f'<p class="unsure">{head}</p><p class="note">{escape(f"{reason}The nearest are {near}.")}</p>'
    names = " or ".join(prediction.labels[index] for index in verdict.classes)
    shares = " and ".join(percent(float(prediction.probabilities[index])) for index in verdict.classes)
    style = "says short" if len(names) < 3 else "says"
    return f'<p class="{style}">{escape(names)} <small>{verdict.words}, {shares}</small></p>'


def _named(prediction: Prediction, index: int) -> str:
    return f"{prediction.labels[index]} ({percent(float(prediction.probabilities[index]))})"


def _timing(prediction: Prediction) -> str:
    return f'<p class="note">{escape(title(prediction.model))}, {1e3 * prediction.seconds:.0f} ms</p>'


def bars(prediction: Prediction, indices: range | list[int], style: str) -> str:
    """Build a bar for the probability of each class of `indices`."""
    rows = []
    for index in indices:
        share = float(prediction.probabilities[index])
        first = ' class="first"' if index == prediction.best else ""
        rows.append(
            f"<li{first}><span>{escape(prediction.labels[index])}</span>"
            f'<span class="track" aria-hidden="true"><i style="--share:{100 * share:.1f}%"></i></span>'
            f'<span class="share">{percent(share)}</span></li>'
        )
    return f'<ol class="{style}" aria-label="Probability of each class">{"".join(rows)}</ol>'


def _panel(image: str | None, says: str, rest: str) -> str:
    if image:
        seen = (
            f'<figure><img src="{image}" alt="The picture as the model sees it, enlarged">'
            "<figcaption>what the model sees</figcaption></figure>"
        )
    else:
        seen = '<figure><div class="nothing"></div><figcaption>what the model sees</figcaption></figure>'
    return f'<div class="answer">{seen}<div role="status" aria-live="polite">{says}</div>{rest}</div>'
