"""Calibrated probabilities of a network, by the numbers that its card's `config.json` holds.

A temperature alone cannot calibrate networks that were trained with label smoothing: it squeezes the gaps between their
logits, and the large gaps most. The curvature stretches them again. docs/recipe.md has the comparison.
"""

import json
import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from zoo.pretrained import config_file

__all__ = ["FIXED_GAP", "Calibration", "calibrated", "of_weights", "probabilities"]

# The gap between two logits, divided by the temperature, that the curvature leaves as it is.
FIXED_GAP = 5.0


class Calibration(NamedTuple):
    """The two numbers that calibrate a network. The defaults give the softmax of its logits."""

    temperature: float = 1.0
    curvature: float = 0.0


def calibrated(logits: Tensor, temperature: float = 1.0, curvature: float = 0.0) -> Tensor:
    """Compute calibrated probabilities. The order of the classes is that of the logits.

    With a curvature of 0 it is the softmax of logits / temperature. A positive one makes gaps between logits smaller up
    to five temperatures, and larger beyond: the gap g to the highest logit becomes 5 * expm1(c * g / 5T) / expm1(c).

    Args:
        logits: float [..., classes].
        temperature: T, above 0.
        curvature: c, at least 0.

    Returns:
        Probabilities of the same shape.
    """
    if not curvature:
        return (logits / temperature).softmax(dim=-1)
    gaps = logits.amax(dim=-1, keepdim=True) - logits
    # The softmax does not change if all are moved by the same amount: exp does for expm1.
    stretched = (gaps * (curvature / FIXED_GAP / temperature)).exp()
    return (stretched * (-FIXED_GAP / math.expm1(curvature))).softmax(dim=-1)


def probabilities(model: nn.Module, x: Tensor, calibration: Calibration | None = None) -> Tensor:
    """Classify a batch: calibrated probabilities, float32 [n, classes].

    The calibration is that of the pretrained weights. It no longer fits once these were trained on.

    Args:
        model: a timm model, in evaluation mode.
        x: as the model takes it: float [n, channels, height, width], normalised.
        calibration: another one than the weights' own.

    Raises:
        ValueError: the weights' `config.json` is damaged.
    """
    return calibrated(model(x).float(), *(calibration or of_weights(model)))


def of_weights(model: nn.Module) -> Calibration:
    """Return the calibration of a model's pretrained weights.

    It is read from the `config.json` beside them, for `local-dir:` and the Hub too. Weights without one, random weights
    and a classifier that was replaced are not calibrated: temperature 1.

    Raises:
        ValueError: the `config.json` is damaged.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if not getattr(model, "has_pretrained_classifier", True) or (file := config_file(cfg)) is None:
        return Calibration()
    try:
        config = json.loads(file.read_text())
        if config.get("num_classes") != getattr(model, "num_classes", None):
            return Calibration()
        found = Calibration(*(float(config.get(name, usual)) for name, usual in Calibration()._asdict().items()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not (0 < found.temperature < math.inf and 0 <= found.curvature < math.inf):
        raise ValueError(f"{file} is damaged: {found}; valid are a temperature above 0 and a curvature of at least 0")
    return found
