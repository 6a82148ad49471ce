"""What only a GPU can show: it augments as a CPU does, learns in every precision and resumes; its memory is bounded."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_networks
import torch
from conftest import reset_accelerate

from train.data import augment, loading
from train.data.preprocess import Preprocess
from train.training import recipes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SETTINGS = ("--batch-size", 32, "--learning-rate", 0.05)


@pytest.fixture(autouse=True)
def with_the_gpu(fresh_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.mark.parametrize("recipe", recipes.RECIPES)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_gpu_augments_as_the_cpu_does(recipe: str, dataset: str, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(dataset).train.images[:256]
    chans = images.shape[1]
    p = Preprocess({"input_size": (chans, 64, 64), "mean": (0.48,) * chans, "std": (0.25,) * chans})
    augmentation = recipes.get(recipe, "improved_resnet18", dataset).augmentation
    draws = augment.draw(len(images), augmentation, seed=0, epoch=1)

    def on(device: str) -> torch.Tensor:
        there = draws.to(torch.device(device))
        x = augment.augment(images.to(device), there.uniform, there.mirrored, augmentation, p.to(device))
        return x.cpu()

    difference = (on("cpu") - on("cuda")).abs()
    assert difference.max() < 1e-3
    assert difference.mean() < 1e-5


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("more", [(), ("--micro-batches", 2)])
def test_it_learns_in_every_precision(
    run: Callable[..., tuple[int, str, str]], samples: Path, tmp_path: Path, precision: str, more: tuple[object, ...]
) -> None:
    arguments = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", samples, "--epochs", 6, *SETTINGS, *more)
    status, output, errors = run(*arguments, "--mixed-precision", precision, "--output-dir", tmp_path / "run")
    assert status == 0, errors
    assert "1 x cuda" in output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 50
    assert metrics["device_memory_bytes"] > 0
    assert torch.cuda.get_device_name() in json.dumps(metrics)


@pytest.mark.parametrize("choice", ["--cuda-graphs", "--no-cuda-graphs"])
def test_resumed_it_ends_where_it_would_have(
    run: Callable[..., tuple[int, str, str]], samples: Path, tmp_path: Path, choice: str
) -> None:
    """Kernels on a GPU add in any order: near, not bit for bit."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", samples, "--epochs", 4, *SETTINGS)
    arguments += ("--save-minutes", 0, choice)
    status, _, errors = run(*arguments, "--output-dir", whole)
    assert status == 0, errors
    shutil.copytree(whole, resumed)
    shutil.rmtree(max((resumed / "states").iterdir()))  # the one of the end
    (resumed / "metrics.json").unlink()
    status, output, errors = run(*arguments, "--output-dir", resumed, "--resume")
    assert status == 0, errors
    assert "Resuming from" in output
    logs = [list(csv.DictReader((folder / "log.csv").read_text().splitlines())) for folder in (whole, resumed)]
    assert [len(log) for log in logs] == [4, 4]
    assert float(logs[1][-1]["train_loss"]) == pytest.approx(float(logs[0][-1]["train_loss"]), rel=0.02)


@pytest.mark.parametrize("more", [(), ("--micro-batches", 2), ("--teacher", "improved_googlenet.cifar10")])
def test_cuda_graphs_train_as_single_kernels_do(
    run: Callable[..., tuple[int, str, str]], samples: Path, tmp_path: Path, more: tuple[object, ...]
) -> None:
    """Through three input sizes, with a smaller batch at the end of each epoch."""
    arguments = (
        "--model",
        "improved_resnet18",
        "--dataset",
        "cifar10",
        "--data-dir",
        samples,
        "--epochs",
        6,
        *SETTINGS,
    )
    losses = []
    for choice in ("--cuda-graphs", "--no-cuda-graphs"):
        reset_accelerate()
        status, _, errors = run(*arguments, *more, choice, "--output-dir", tmp_path / choice)
        assert status == 0, errors
        rows = csv.DictReader((tmp_path / choice / "log.csv").read_text().splitlines())
        losses.append([float(row["train_loss"]) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_what_cannot_be_captured_is_named(
    run: Callable[..., tuple[int, str, str]], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = tiny_networks.TinyNet.forward

    def waiting(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) * (x.sum().item() > 0)

    monkeypatch.setattr(tiny_networks.TinyNet, "forward", waiting)
    arguments = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", samples, "--epochs", 1, *SETTINGS)
    status, _, errors = run(*arguments, "--cuda-graphs", "--output-dir", tmp_path / "run")
    assert status == 1
    assert "cannot be captured as a CUDA graph" in errors
    assert "--no-cuda-graphs" in errors


@pytest.mark.parametrize("choice", ["--cuda-graphs", "--no-cuda-graphs"])
def test_memory_does_not_grow_over_the_epochs(
    run: Callable[..., tuple[int, str, str]], samples: Path, tmp_path: Path, mnist: loading.Dataset, choice: str
) -> None:
    peaks = []
    for epochs in (2, 12):
        reset_accelerate()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        arguments = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", samples, "--epochs", epochs, *SETTINGS)
        status, _, errors = run(*arguments, choice, "--output-dir", tmp_path / str(epochs))
        assert status == 0, errors
        peaks.append(json.loads((tmp_path / str(epochs) / "metrics.json").read_text())["device_memory_bytes"])
    assert peaks[1] < peaks[0] + mnist.train.images.numel()
