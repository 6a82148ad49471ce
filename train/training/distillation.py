"""Knowledge distillation: a student learns from a teacher's outputs for each image, besides the image's label.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), and Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent" (2022): the teacher sees exactly the image that the student sees, with the same
augmentation.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.data.preprocess import Preprocess
from train.speed.fold import fold
from train.training import models

SHARE = 0.9
TEMPERATURE = 2.0


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's outputs for a batch, as Hinton et al. call them.

    Attributes:
        probabilities: float32 [b, classes], at the temperature.
        share: their weight in the loss; the labels get the rest.
        temperature: divisor of both networks' logits. Above 1 it gives more weight to how the teacher ranks the
            unlikely classes.
    """

    probabilities: Tensor
    share: float
    temperature: float

    def blend(self, loss: Tensor, logits: Tensor) -> Tensor:
        """Mix the loss by labels, summed over the batch, with the logits' divergence from the targets.

        The divergence is multiplied by the square of the temperature, which keeps the size of its gradients.

        Args:
            loss: float32, by labels.
            logits: the student's, float [b, classes].
        """
        own = F.log_softmax(logits.float() / self.temperature, dim=1)
        divergence = F.kl_div(own, self.probabilities, reduction="sum") * self.temperature**2
        return torch.lerp(loss, divergence, self.share)


class Teacher(nn.Module):
    """A trained network that gives soft targets for a student's input, resized and normalised as it needs it.

    Args:
        model: the teacher. It is put into evaluation mode, and its weights are frozen.
        student_cfg: the student's `pretrained_cfg`, with the statistics that normalise its input.
        share: see `SoftTargets`.
        temperature: see `SoftTargets`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self, model: nn.Module, student_cfg: dict[str, Any], share: float = SHARE, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__()
        cfg = models.pretrained_cfg(model)
        self.preprocess, student = Preprocess(cfg), Preprocess(student_cfg)
        self.share, self.temperature = share, temperature
        # (x * student.std + student.mean - own mean) / own std
        self.register_buffer("scale", student.std / self.preprocess.std, persistent=False)
        self.register_buffer("offset", (student.mean - self.preprocess.mean) / self.preprocess.std, persistent=False)
        self.alike = not (self.scale != 1).any() and not self.offset.any()
        self.input_size = cfg["input_size"]
        self.model = fold(model, self.input_size).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":  # noqa: ARG002  (torch's signature)
        """Stay in evaluation mode, the only one of a teacher."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> SoftTargets:
        """Compute the soft targets of a batch.

        Args:
            x: float32 [b, c, height, width], of the student's size and normalised for the student.
        """
        if not self.alike:
            x = x * self.scale + self.offset
        if self.preprocess.size != tuple(x.shape[-2:]):
            x = self.preprocess.resize(x)
        probabilities = F.softmax(self.model(x).float() / self.temperature, dim=1)
        return SoftTargets(probabilities, self.share, self.temperature)


def load(name: str, class_names: list[str], in_chans: int) -> models.Trained:
    """Load a network as a teacher.

    Args:
        name: as `models.load` takes it.
        class_names: of the student, in the order of the labels.
        in_chans: of the student.

    Raises:
        models.ModelError: there is no such network, or it has other classes or input channels.
    """
    trained = models.load(name)
    if trained.class_names != class_names:
        raise models.ModelError(
            f"teacher {name!r} has the classes {', '.join(trained.class_names)}, the dataset {', '.join(class_names)}"
        )
    channels = models.pretrained_cfg(trained.model)["input_size"][0]
    if channels != in_chans:
        raise models.ModelError(f"teacher {name!r} takes images of {channels} channels, these have {in_chans}")
    return trained
