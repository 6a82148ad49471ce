"""What a model's probabilities mean in words: the one place that decides it, for all tabs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve.engine.models import Scores
from serve.engine.queues import ranked

Tone = Literal["sure", "leaning", "torn", "unsure", "none"]
# Sure from here on, for models whose file states no `abstain_below`.
SURE = 0.75
# With less of the probability, a class is no majority.
MAJORITY = 0.5
# An image between two classes is like neither, so its logits are unfamiliar. With so much of the probability, the two
# explain it.
BETWEEN_TWO = 0.8
WORDS: dict[Tone, str] = {
    "sure": "sure",
    "leaning": "leaning",
    "torn": "torn between two",
    "unsure": "not sure",
    "none": "none that I know",
}


@dataclass(frozen=True)
class Verdict:
    """What a model says about an image.

    Attributes:
        tone: `sure` of one class, `leaning` to it, `torn` between two, `unsure` among more, or `none` that it knows.
        classes: the indices of the classes that it names: one, two if it is torn, none if it is unsure or knows none.
    """

    tone: Tone
    classes: tuple[int, ...]

    @property
    def words(self) -> str:
        """The tone in words."""
        return WORDS[self.tone]


def verdict(
    probabilities: Scores, abstain_below: float | None = None, *, fits: bool = True, familiar: bool | None = None
) -> Verdict:
    """Decide what a model says.

    It is sure of what it does not abstain from. Else it is torn between the two best classes if they have a majority
    together and neither has twice the other's probability, leans to one with a majority, or is unsure. An unfamiliar
    image is none that it knows, unless it is torn between two classes that have nearly all of the probability.

    Args:
        probabilities: float32 [classes], calibrated if the model is.
        abstain_below: the top probability below which the model abstains, as its file states; None: SURE.
        fits: whether the image is one that the model can know at all.
        familiar: whether it is like those of the model's classes; None: not known. Then an image without a majority is
            none that the model knows.
    """
    order = ranked(probabilities, 2)
    first = float(probabilities[order[0]])
    second = float(probabilities[order[1]]) if len(order) > 1 else 0.0
    if not fits:
        return Verdict("none", ())
    unfamiliar = familiar is False
    sure = first >= (SURE if abstain_below is None else abstain_below)
    if not sure and second > first / 2 and first + second >= (BETWEEN_TWO if unfamiliar else MAJORITY):
        return Verdict("torn", (order[0], order[1]))
    if unfamiliar:
        return Verdict("none", ())
    if sure:
        return Verdict("sure", (order[0],))
    if first >= MAJORITY:
        return Verdict("leaning", (order[0],))
    return Verdict("unsure" if familiar else "none", ())
