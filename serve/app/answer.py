"""What the app says: answers as HTML, from probabilities. Pure functions; all text from outside is escaped."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve.engine.models import Scores
from serve.engine.queues import ranked
from serve.images.digits import Digit, Problem

Pixels = npt.NDArray[np.uint8]

SURE = 0.75  # below this probability the best class is called a guess
PROBLEMS: dict[Problem, str] = {
    "blank": "Nothing to read yet: draw one digit, 0 to 9.",
    "dot": "That is only a dot. Draw one digit, 0 to 9.",
    "several": "This looks like more than one digit. One at a time, please.",
    "scribble": "This does not look like a digit.",
}
FAMILIES = {"vgg16": "VGG16", "resnet18": "ResNet18", "googlenet": "GoogLeNet"}


@dataclass(frozen=True)
class Answer:
    """One model's answer to one picture: `probabilities` float32 [classes], `seconds` from question to answer."""

    model: str
    labels: list[str]
    probabilities: Scores
    seconds: float

    @property
    def order(self) -> list[int]:
        """Class indices, best first."""
        return ranked(self.probabilities)

    @property
    def best(self) -> int:
        return self.order[0]

    @property
    def sure(self) -> bool:
        return float(self.probabilities[self.best]) >= SURE


def title(model: str) -> str:
    """Write `improved_googlenet.mnist` as people say it: Improved GoogLeNet."""
    kind, _, family = model.split(".")[0].partition("_")
    return f"{kind.capitalize()} {FAMILIES.get(family, family)}".strip()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def png(pixels: Pixels) -> str:
    """Encode uint8 [H, W, C] as a data URL: so small a picture is not worth a second request."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    kept = io.BytesIO()
    image.save(kept, "PNG")
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()


def message(text: str) -> str:
    """Build a line that stands in the place of an answer."""
    return _panel(None, f'<p class="unsure">{escape(text[:1].upper() + text[1:])}</p>', "")


def digit_answer(digit: Digit, answer: Answer | None) -> str:
    """Build what a model says of a prepared digit; without an answer, what is missing."""
    if digit.pixels is None or answer is None:
        return message(PROBLEMS[digit.problem or "blank"])
    first, second = answer.order[:2]
    if digit.problem or not answer.sure:
        reason = PROBLEMS[digit.problem] if digit.problem else "No digit fits well."
        guess = f"Its best guess is {_named(answer, first)}, then {_named(answer, second)}."
        says = f'<p class="unsure">Unsure</p><p class="note">{escape(reason)} {escape(guess)}</p>'
    else:
        says = _says(answer, "says digit")
    bars = _bars(answer, range(len(answer.labels)), "bars")
    return _panel(png(digit.pixels), says + _timing(answer), bars)


def picture_answer(pixels: Pixels, answer: Answer) -> str:
    """Build what a model says of a picture, and which classes it knows."""
    if answer.sure:
        says = _says(answer, "says")
    else:
        guess = f"The closest is {_named(answer, answer.best)}."
        says = (
            '<p class="unsure">Perhaps none of its ten classes</p>'
            f'<p class="note">The model is not sure of any. {escape(guess)}</p>'
        )
    known = ", ".join(answer.labels[:-1]) + f" and {answer.labels[-1]}"
    only = (
        f'<p class="note only">It knows ten classes: {escape(known)}. Whatever it is shown, it names one of them.</p>'
    )
    return _panel(png(pixels), says + _timing(answer), _bars(answer, answer.order[:5], "bars words") + only)


def _named(answer: Answer, index: int) -> str:
    return f"{answer.labels[index]} ({percent(float(answer.probabilities[index]))})"


def _says(answer: Answer, style: str) -> str:
    share = percent(float(answer.probabilities[answer.best]))
    return f'<p class="{style}">{escape(answer.labels[answer.best])} <small>{share}</small></p>'


def _timing(answer: Answer) -> str:
    return f'<p class="note">{escape(title(answer.model))}, {1e3 * answer.seconds:.0f} ms</p>'


def _bars(answer: Answer, indices: range | list[int], style: str) -> str:
    rows = []
    for index in indices:
        share = float(answer.probabilities[index])
        first = ' class="first"' if index == answer.best else ""
        rows.append(
            f"<li{first}><span>{escape(answer.labels[index])}</span>"
            f'<span class="track" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'
            f'<span class="share">{percent(share)}</span></li>'
        )
    return f'<ol class="{style}" aria-label="Probability of each class">{"".join(rows)}</ol>'


def _panel(picture: str | None, says: str, rest: str) -> str:
    if picture:
        seen = (
            f'<figure><img src="{picture}" alt="The picture as the model sees it, enlarged">'
            "<figcaption>what the model sees</figcaption></figure>"
        )
    else:
        seen = '<figure><div class="nothing"></div><figcaption>what the model sees</figcaption></figure>'
    return f'<div class="answer">{seen}<div role="status" aria-live="polite">{says}</div>{rest}</div>'
