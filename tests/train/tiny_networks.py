"""Networks small enough to train within a test, registered with timm. As a script: `train/fit.py` that knows them."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from train import fit
from zoo.googlenet import GoogLeNetOutputs

# Seconds for each run of a network that is not the project's; test_timm_models.py tests it.
export_problem = fit.export_problem
mock.patch.object(fit, "export_problem", return_value=None).start()


class TinyNet(nn.Module):
    """Two convolutions and a linear layer, with everything a run has to keep: norm statistics, dropout's randomness."""

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, norm: bool = True, aux: bool = False, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.drop_rate, self.aux = num_classes, 16, drop_rate, aux
        self.conv1 = nn.Conv2d(in_chans, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 16, num_classes)
        if aux:
            self.aux1, self.aux2 = nn.Linear(16, num_classes), nn.Linear(16, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.dropout(F.adaptive_avg_pool2d(x, 4).flatten(1), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        features = self.forward_features(x)
        logits = self.forward_head(features)
        if self.aux and self.training:
            return GoogLeNetOutputs(logits, self.aux2(features.mean((2, 3))), self.aux1(features.amax((2, 3))))
        return logits


class BranchingNet(TinyNet):
    """Takes another way by what the image holds, which no graph of operators says."""

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        return super().forward(-x if float(x.sum()) > 1e6 else x)


def _cfg(chans: int, size: int, **cfg: Any) -> dict[str, Any]:
    return {
        "input_size": (chans, size, size),
        "num_classes": 10,
        "label_names": tuple("abcdefghij"),  # of no dataset of the tests'
        "mean": (0.5,) * chans,
        "std": (0.25,) * chans,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": "conv1",
        "classifier": "fc",
        **cfg,
    }


default_cfgs = generate_default_cfgs(
    {
        "tiny_net.cifar10": _cfg(3, 32),
        "tiny_net.mnist": _cfg(1, 28),
        "tiny_plain.cifar10": _cfg(3, 32),
        "tiny_plain.mnist": _cfg(1, 28),
        "tiny_colour.untagged": _cfg(3, 32),
        "tiny_branching.untagged": _cfg(3, 32),
    }
)


@register_model
def tiny_net(pretrained: bool = False, **kwargs: Any) -> TinyNet:
    """With BatchNorm and dropout."""
    return build_model_with_cfg(TinyNet, "tiny_net", pretrained, **kwargs)


@register_model
def tiny_plain(pretrained: bool = False, **kwargs: Any) -> TinyNet:
    """With neither: a batch in pieces gives what the whole one gives."""
    return build_model_with_cfg(TinyNet, "tiny_plain", pretrained, **{"norm": False, "drop_rate": 0.0, **kwargs})


@register_model
def tiny_colour(pretrained: bool = False, **kwargs: Any) -> TinyNet:
    """As most of timm's: one cfg, for colour, whatever dataset it is trained on."""
    return build_model_with_cfg(TinyNet, "tiny_colour", pretrained, **kwargs)


@register_model
def tiny_branching(pretrained: bool = False, **kwargs: Any) -> BranchingNet:
    """Cannot be exported."""
    return build_model_with_cfg(BranchingNet, "tiny_branching", pretrained, **kwargs)


def die_at(call: int) -> None:
    """Have this process killed, as by a power cut, at its n-th fsync, rename or removal of a folder."""
    import shutil

    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for module, name in ((os, "fsync"), (os, "replace"), (shutil, "rmtree")):
        setattr(module, name, counted(getattr(module, name)))


def make_run_folder_slowly(seconds: float) -> None:
    """Take so long to make a folder called `run`: another process that starts at the same moment finds none either."""
    import time

    mkdir = os.mkdir

    def slow(path: Any, *args: Any, **kwargs: Any) -> None:
        if os.path.basename(path) == "run":  # noqa: PTH119  (it may be a string)
            time.sleep(seconds)
        mkdir(path, *args, **kwargs)

    os.mkdir = slow


def limit_file_size(size: int) -> None:
    """What a full disk does, to this process alone: no file may grow beyond `size` bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def draw_no_curves(_: int) -> None:
    """Drawing the curves after an epoch takes longer than a tiny network's epoch."""
    from train.training.results import plots

    mock.patch.object(plots, "curves").start()


def share_cores(jobs: int) -> None:
    """What begins each of an export's processes; by importing this file they get to know its networks."""
    torch.set_num_threads(1)


def command(
    argv: list[str], output: str, environment: dict[str, str], before: tuple[Callable[..., Any], int] | None
) -> None:
    """`train/fit.py` in a process of its own, its output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before is not None:
        function, argument = before
        function(argument)
    sys.exit(fit.main(argv))


if __name__ == "__main__":
    assert timm.is_model("tiny_net")
    sys.exit(fit.main())
