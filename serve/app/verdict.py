"""What a model's probabilities mean in words: the one place that decides it, for all tabs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve.engine.models import Scores
from serve.engine.queues import ranked

Tone = Literal["sure", "leaning", "torn", "none"]
# For models without a calibrated value: a class with less than half of the probability is no majority.
ABSTAIN_BELOW = 0.5
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

    It is sure from halfway between `abstain_below` and certainty. If only the two best classes together reach that, and
    neither has twice the other's probability, it is torn between them.

    Args:
        probabilities: float32 [classes], calibrated if the model is.
        abstain_below: the top probability below which the model abstains, as its file states; None: ABSTAIN_BELOW.
        fits: whether the image is one that the model can know at all.
    """
    least = ABSTAIN_BELOW if abstain_below is None else abstain_below
    sure = (1 + least) / 2
    order = ranked(probabilities, 2)
    first = float(probabilities[order[0]])
    second = float(probabilities[order[1]]) if len(order) > 1 else 0.0
    if not fits:
        return Verdict("none", ())
    if first >= sure:
        return Verdict("sure", (order[0],))
    if first + second >= sure and second > first / 2:
        return Verdict("torn", (order[0], order[1]))
    if first >= least:
        return Verdict("leaning", (order[0],))
    return Verdict("none", ())
