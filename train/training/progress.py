"""Where a run stands: what its states keep, and what is counted on the device within an epoch."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class LossError(RuntimeError):
    """A loss that ends the run; its message is one line for the user."""


class NonFiniteLossError(LossError):
    """The loss became infinite or not a number."""


@dataclass
class Progress:
    """Where a run stands; its states keep it.

    Attributes:
        epoch, batch: how many are done; the batches are those of the current epoch.
        loss_sum, correct, seen: over the images of the current epoch.
        train_seconds: of all epochs that are done.
        epoch_seconds: of the current epoch so far.
        rows: of `log.csv`.
        steps: the rows of `steps.csv`.
        unlogged_loss, unlogged: sum and number of the losses of earlier epochs that are in no row of it yet.
        logged_loss, logged: of the current epoch that are.
        commits: of the code that the run was started and resumed with.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)
    unlogged_loss: float = 0.0
    unlogged: int = 0
    logged_loss: float = 0.0
    logged: int = 0
    commits: list[str | None] = field(default_factory=list)

    def end_epoch(self, row: dict[str, float]) -> None:
        """Add an epoch's row, and move on to the next one."""
        self.rows.append(row)
        self.unlogged_loss += self.loss_sum - self.logged_loss
        self.unlogged += self.seen - self.logged
        self.logged_loss, self.logged = 0.0, 0
        self.train_seconds += self.epoch_seconds
        self.epoch += 1
        self.batch = self.seen = self.correct = 0
        self.loss_sum = self.epoch_seconds = 0.0

    def log_step(self, step: int, learning_rate: float) -> None:
        """Add a row for the images since the last one.

        Args:
            step: the number of steps that are done.
            learning_rate: of the last one.
        """
        loss = self.unlogged_loss + self.loss_sum - self.logged_loss
        images = self.unlogged + self.seen - self.logged
        self.steps.append({"step": step, "learning_rate": learning_rate, "train_loss": loss / images})
        self.unlogged_loss, self.unlogged = 0.0, 0
        self.logged_loss, self.logged = self.loss_sum, self.seen

    def state_dict(self) -> dict[str, Any]:
        """Return what a state keeps, as Accelerate asks for it."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a state kept."""
        for name, value in state.items():
            setattr(self, name, value)


class Tally:
    """Counts an epoch's loss and correct predictions on the device, and notes the first step of a non-finite loss.

    Its tensors keep their memory: a CUDA graph counts there.
    """

    def __init__(self, accelerator: Accelerator, steps_per_epoch: int, learning_rate: float) -> None:
        self._accelerator = accelerator
        self._steps_per_epoch = steps_per_epoch
        self._learning_rate = learning_rate
        device = accelerator.device
        # Apple's GPUs have no float64.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.totals = torch.zeros(2, dtype=exact, device=device)
        self.step = torch.tensor(0, device=device)
        self.bad_step = torch.tensor(-1, device=device)

    def begin(self, progress: Progress) -> None:
        """Start counting from where the progress stands in its epoch."""
        self.totals.zero_()
        if self._accelerator.is_main_process:  # what all processes had counted when the state was saved
            self.totals += self.totals.new_tensor([progress.loss_sum, progress.correct])

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count some images of the step that `self.step` holds.

        Args:
            loss: float32, summed over the images.
            logits: float [b, classes].
            labels: int64 [b].
        """
        loss = loss.detach()
        self.totals += torch.stack([loss, (logits.argmax(1) == labels).sum()])
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~loss.isfinite(), self.step, self.bad_step))

    def collect(self, progress: Progress) -> None:
        """Write the sums over all processes into the progress.

        Raises:
            NonFiniteLossError: naming the step.
        """
        loss, correct = self._accelerator.reduce(self.totals.clone(), "sum").tolist()
        bad_step = int(self.bad_step)
        if bad_step >= 0 or not math.isfinite(loss):
            # Where it was another process's step, that process names it.
            epoch = bad_step // self._steps_per_epoch + 1
            where = f"step {bad_step} (epoch {epoch})" if bad_step >= 0 else "this step or before"
            raise NonFiniteLossError(
                f"the loss is not finite at {where}: the learning rate is probably too high: try --learning-rate "
                f"below {self._learning_rate:g}"
            )
        progress.loss_sum, progress.correct = loss, round(correct)
