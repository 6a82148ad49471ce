"""What a model's probabilities mean in words: the one place that decides it, for all tabs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve.engine.models import Scores
from serve.engine.queues import ranked

Tone = Literal["sure", "leaning", "torn", "none"]
# Sure from here on, for models whose file states no `abstain_below`.
SURE = 0.75
# With less of the probability, a class is no majority, and the model knows none.
MAJORITY = 0.5
WORDS: dict[Tone, str] = {"sure": "sure", "leaning": "leaning", "torn": "torn between two", "none": "none that I know"}


@dataclass(frozen=True)
class Verdict:
    """What a model says about an image.

    Attributes:
        tone: `sure` of one class, `leaning` to it, `torn` between two, or `none` that it knows.
        classes: the indices of the classes that it names: one, two if it is torn, none if it knows none.
    """

    tone: Tone
    classes: tuple[int, ...]

    @property
    def words(self) -> str:
        """The tone in words."""
        return WORDS[self.tone]


def verdict(probabilities: Scores, abstain_below: float | None = None, *, fits: bool = True) -> Verdict:
    """Decide what a model says.

    It is sure of what it does not abstain from. Else it is torn between the two best classes if they have a majority
    together and neither has twice the other's probability, leans to one with a majority, or knows none.

    Args:
        probabilities: float32 [classes], calibrated if the model is.
        abstain_below: the top probability below which the model abstains, as its file states; None: SURE.
        fits: whether the image is one that the model can know at all.
    """
    order = ranked(probabilities, 2)
    first = float(probabilities[order[0]])
    second = float(probabilities[order[1]]) if len(order) > 1 else 0.0
    if not fits:
        return Verdict("none", ())
    if first >= (SURE if abstain_below is None else abstain_below):
        return Verdict("sure", (order[0],))
    if first + second >= MAJORITY and second > first / 2:
        return Verdict("torn", (order[0], order[1]))
    if first >= MAJORITY:
        return Verdict("leaning", (order[0],))
    return Verdict("none", ())
