"""Predictions as HTML. Pure functions; all text from outside is escaped."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from serve.app.inference import Pixels, Prediction
from serve.images.digits import Digit, Problem

PROBLEMS: dict[Problem, str] = {
    "blank": "Nothing to read yet: draw one digit, 0 to 9.",
    "dot": "That is only a dot. Draw one digit, 0 to 9.",
    "several": "This looks like more than one digit. One at a time, please.",
    "scribble": "This does not look like a digit.",
}
FAMILIES = {"vgg16": "VGG16", "resnet18": "ResNet18", "googlenet": "GoogLeNet"}


def title(model: str) -> str:
    """Write a model's name for people: "Improved GoogLeNet" for `improved_googlenet.mnist`."""
    kind, _, family = model.split(".")[0].partition("_")
    return f"{kind.capitalize()} {FAMILIES.get(family, family)}".strip()


def percent(share: float) -> str:
    """Write a share from 0 to 1 as a percentage."""
    return f"{100 * share:.1f} %"


def png(pixels: Pixels) -> str:
    """Encode uint8 [H, W, C] as a data URL: such small images are not worth a second request."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def message(text: str) -> str:
    """Build a panel with a line of text in place of a result."""
    return _panel(None, f'<p class="unsure">{escape(text[:1].upper() + text[1:])}</p>', "")


def digit_result(digit: Digit, prediction: Prediction | None) -> str:
    """Build the panel of a prepared digit and its prediction; without a prediction, of what is missing."""
    if digit.pixels is None or prediction is None:
        return message(PROBLEMS[digit.problem or "blank"])
    first, second = prediction.order[:2]
    if digit.problem or not prediction.sure:
        reason = PROBLEMS[digit.problem] if digit.problem else "No digit fits well."
        guess = f"Its best guess is {_named(prediction, first)}, then {_named(prediction, second)}."
        says = f'<p class="unsure">Unsure</p><p class="note">{escape(reason)} {escape(guess)}</p>'
    else:
        says = _says(prediction, "says digit")
    bars = _bars(prediction, range(len(prediction.labels)), "bars")
    return _panel(png(digit.pixels), says + _timing(prediction), bars)


def picture_result(pixels: Pixels, prediction: Prediction) -> str:
    """Build the panel of a picture, its prediction and the classes that the model knows."""
    if prediction.sure:
        says = _says(prediction, "says")
    else:
        guess = f"The closest is {_named(prediction, prediction.best)}."
        says = (
            '<p class="unsure">Perhaps none of its ten classes</p>'
            f'<p class="note">The model is not sure of any. {escape(guess)}</p>'
        )
    known = ", ".join(prediction.labels[:-1]) + f" and {prediction.labels[-1]}"
    only = (
        f'<p class="note only">It knows ten classes: {escape(known)}. It names one of them, whatever the picture'
        " shows.</p>"
    )
    bars = _bars(prediction, prediction.order[:5], "bars words")
    return _panel(png(pixels), says + _timing(prediction), bars + only)


def _named(prediction: Prediction, index: int) -> str:
    return f"{prediction.labels[index]} ({percent(float(prediction.probabilities[index]))})"


def _says(prediction: Prediction, style: str) -> str:
    share = percent(float(prediction.probabilities[prediction.best]))
    return f'<p class="{style}">{escape(prediction.labels[prediction.best])} <small>{share}</small></p>'


def _timing(prediction: Prediction) -> str:
    return f'<p class="note">{escape(title(prediction.model))}, {1e3 * prediction.seconds:.0f} ms</p>'


def _bars(prediction: Prediction, indices: range | list[int], style: str) -> str:
    rows = []
    for index in indices:
        share = float(prediction.probabilities[index])
        first = ' class="first"' if index == prediction.best else ""
        rows.append(
            f"<li{first}><span>{escape(prediction.labels[index])}</span>"
            f'<span class="track" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'
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
