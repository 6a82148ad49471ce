"""Synchronised BatchNorm: statistics of the whole batch where several processes share it, on CPUs too.

Several processes then have the loss of one process that sees the whole batch.
"""

from typing import Any

import torch
import torch.distributed
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Sum(torch.autograd.Function):
    """The sum over all processes, for each of them; a process's part contributes to the losses of all."""

    @staticmethod
    def forward(_ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, as `nn.SyncBatchNorm`, which does not run on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [n, C, H, W]."""
        return _normalised(self, x) if self.training else super().forward(x)


class CpuSyncBatchNormAct2d(BatchNormAct2d):
    """The same for timm's norm with activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [n, C, H, W], and apply the activation."""
        if not self.training:
            evaluated: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return evaluated
        y: Tensor = self.act(self.drop(_normalised(self, x)))
        return y


SYNCHRONIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: CpuSyncBatchNorm2d,
    BatchNormAct2d: CpuSyncBatchNormAct2d,
}


def synchronize(model: nn.Module, device: torch.device) -> nn.Module:
    """Make a network's norms use the whole batch: all processes must run it together from then on.

    `unsynchronize` undoes it on CPUs.
    """
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        module.__class__ = SYNCHRONIZED.get(type(module), type(module))
    return model


def unsynchronize(model: nn.Module) -> None:
    """Undo `synchronize` on a CPU: each process's norms use its own share of the batch again."""
    own = {synchronized: kind for kind, synchronized in SYNCHRONIZED.items()}
    for module in model.modules():
        module.__class__ = own.get(type(module), type(module))


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise [n, C, H, W] by mean and variance over the images of all processes; update the running statistics."""
    y = x if x.dtype == torch.float64 else x.float()
    count = _Sum.apply(y.new_tensor(y.numel() / y.shape[1]))
    mean = _Sum.apply(y.sum((0, 2, 3))) / count
    y = y - mean[:, None, None]
    # A second pass: the difference of two large sums would lose most of its digits.
    variance = _Sum.apply(y.square().sum((0, 2, 3))) / count
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1
            share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(variance * count / (count - 1), share)
    y = y * (variance + norm.eps).rsqrt()[:, None, None]
    if norm.affine:
        y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    result: Tensor = y.to(x.dtype)
    return result
