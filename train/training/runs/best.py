"""The weights of the best epoch on validation, kept beside those of the last."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from train.files import atomic_write

Row = dict[str, float]


def best_row(rows: list[Row]) -> Row:
    """Return the row of the epoch with the highest validation accuracy; of several, that with the lowest loss."""
    return max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))


class Best:
    """Holds the best epoch's weights on the CPU, and writes them whenever a state of the run is saved.

    Args:
        file: where they are kept during the training.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.row: Row | None = None
        self.weights: dict[str, Tensor] = {}
        self._written = True

    def offer(self, model: nn.Module, rows: list[Row]) -> None:
        """Take over a model's weights where the newest row is the best."""
        if best_row(rows) is rows[-1]:
            # Contiguous, as safetensors wants it.
            self.weights = {
                name: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
                for name, value in model.state_dict().items()
            }
            self.row, self._written = rows[-1], False

    def write(self) -> None:
        """Write the weights, if they are others than the last time."""
        if self.row is None or self._written:
            return
        with atomic_write(self.file) as temporary:
            save_file(self.weights, temporary, metadata=_marks(self.row))
        self._written = True

    def load(self, rows: list[Row]) -> None:
        """Read the weights back where a run is resumed; not where they are those of another epoch."""
        if not rows:
            return
        try:
            with safe_open(self.file, framework="pt") as tensors:
                if tensors.metadata() == _marks(best_row(rows)):
                    self.weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
                    self.row = best_row(rows)
        except (OSError, SafetensorError):  # none, or a damaged one: the next best epoch writes it again
            return


def _marks(row: Row) -> dict[str, str]:
    return {name: repr(row[name]) for name in ("epoch", "validation_accuracy", "validation_loss")}
