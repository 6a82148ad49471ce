"""The mean of the weights before and after fine-tuning, weighted by what validation says.

Fine-tuning on a few hundred images gains much where they differ from those of the pretraining. Where they do not, it
only loses something of what the weights had learnt. A weighted mean of both, which is as good as the better of them and
often better (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903), needs nobody to know which case it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Row = dict[str, float]

# The weights' share of the training that is tried. A larger one has to have a higher accuracy than all smaller ones:
# a few dozen validation images often say the same of all, and then the classifier on frozen features is the safe choice
# (docs/recipe.md). Its own accuracy, of share zero, is known.
SHARES = (0.25, 0.5, 0.75, 1.0)
SHARE = "share_of_training"


class Averaging:
    """Replaces a model's weights for validation, and for good after the last epoch.

    Args:
        model: as it is before the training.
        accuracy: its validation accuracy in percent.
    """

    def __init__(self, model: nn.Module, accuracy: float) -> None:
        self.accuracy = accuracy
        self._start = _copy(model)
        self._trained: dict[str, Tensor] = {}

    @torch.no_grad()
    def choose(self, model: nn.Module, validate: Callable[[], Row]) -> Row:
        """Give the model the mean with the highest validation accuracy.

        Args:
            model: after an epoch of training.
            validate: computes the epoch's row of `log.csv` with the model's weights as they are.

        Returns:
            The row of the weights that were chosen, with their share of the training.
        """
        self._trained = _copy(model)
        best, accuracy = None, self.accuracy
        for share in SHARES:
            self._set(model, share)
            row = validate() | {SHARE: share}
            if row["validation_accuracy"] > accuracy:
                best, accuracy = row, row["validation_accuracy"]
        self._set(model, 0.0 if best is None else best[SHARE])
        return best or validate() | {SHARE: 0.0}

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Give the model its trained weights back, to be trained on."""
        self._set(model, 1.0)

    def _set(self, model: nn.Module, share: float) -> None:
        for name, value in _weights(model).items():
            if share == 1.0:
                value.copy_(self._trained[name])
            else:
                torch.lerp(self._start[name], self._trained[name], share, out=value)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors to average; what BatchNorm counts is no weight."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _weights(model).items()}
