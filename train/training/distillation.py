"""Knowledge distillation: learning from another network's outputs for each image, beside the image's label.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), and Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent" (2022): the teacher sees the very image that the student sees, augmented anew in
every epoch.
"""

from dataclasses import dataclass

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
        temperature: what both networks' logits are divided by: above 1, more is seen of how the teacher ranks the
            classes that it thinks unlikely.
    """

    probabilities: Tensor
    share: float
    temperature: float

    def blend(self, loss: Tensor, logits: Tensor) -> Tensor:
        """A loss by labels, summed over the batch, and the divergence of the logits from the targets, by the share.

        The divergence is multiplied by the square of the temperature: its gradients keep their size so.
        """
        own = F.log_softmax(logits.float() / self.temperature, dim=1)
        divergence = F.kl_div(own, self.probabilities, reduction="sum") * self.temperature**2
        return torch.lerp(loss, divergence, self.share)


class Teacher(nn.Module):
    """A trained network that gives soft targets for a student's input, whatever input size it has itself.

    Args:
        model: the teacher. It is put into evaluation mode, and its weights are no longer trained.
        student_cfg: the student's, whose statistics its input is normalised with.
        share, temperature: see `SoftTargets`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self, model: nn.Module, student_cfg: dict, share: float = SHARE, temperature: float = TEMPERATURE
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

    def train(self, mode: bool = True) -> "Teacher":
        """It has learnt: evaluation mode is its only one."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> SoftTargets:
        """Its outputs for a batch.

        Args:
            x: float32 [b, channels, *the student's size], normalised as the student sees it.
        """
        if not self.alike:
            x = x * self.scale + self.offset
        if self.preprocess.size != tuple(x.shape[-2:]):
            x = self.preprocess.resize(x)
        probabilities = F.softmax(self.model(x).float() / self.temperature, dim=1)
        return SoftTargets(probabilities, self.share, self.temperature)


def load(name: str, class_names: list[str], in_chans: int) -> models.Trained:
    """A network to learn from.

    Args:
        name: as `models.load` takes it.

    Raises:
        models.ModelError: there is no such network, or it tells other classes apart, or wants other channels.
    """
    trained = models.load(name)
    if trained.class_names != class_names:
        raise models.ModelError(
            f"teacher {name!r} tells {', '.join(trained.class_names)} apart; to be learnt are {', '.join(class_names)}"
        )
    channels = models.pretrained_cfg(trained.model)["input_size"][0]
    if channels != in_chans:
        raise models.ModelError(f"teacher {name!r} takes images of {channels} channels, these have {in_chans}")
    return trained
