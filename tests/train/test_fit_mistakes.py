"""What `train/fit.py` says when it cannot: one line, and nothing is touched."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES, one_line

TINY = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", SAMPLES)
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "improved_googlenett"], ["'improved_googlenett'", "improved_googlenet", "vanilla_vgg16"]),
        (["--model", "improved_vgg16.svhn"], ["improved_vgg16.svhn", "improved_vgg16.mnist", "improved_vgg16.cifar10"]),
        (["--dataset", "minst"], ["'minst'", "'mnist'", "'cifar10'"]),
        (["--data-dir", "/no/such/folder"], ["/no/such/folder", "'mnist'"]),
        (["--recipe", "slow"], ["'slow'", "'paper'", "'fast'"]),
        (["--epochs", "-1"], ["--epochs", "-1", "at least 1"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--batch-size", "0"], ["--batch-size", "0"]),
        (["--batch-size", "32", "--micro-batches", "64"], ["--batch-size 32", "64", "256"]),
        (["--learning-rate", "nan"], ["--learning-rate", "nan"]),
        (["--learning-rate", "0"], ["--learning-rate", "0.0", "positive"]),
        (["--mixed-precision", "fp8"], ["fp8", "bf16"]),
        (["--model-kwargs", "drop_rate"], ["'drop_rate'", "KEY=VALUE"]),
        (["--model-kwargs", "depth=3"], ["depth"]),
        (["--model", "improved_resnet18", "--model-kwargs", "act_layer=foo"], ["cannot build", "foo"]),
        (["--model", "improved_resnet18", "--model-kwargs", "global_pool=foo"], ["cannot build", "foo"]),
        (["--model", "improved_resnet18", "--model-kwargs", "drop_rate=abc"], ["64x64 pixels", "str"]),
        (["--model-kwargs", "img_size=64"], ["img_size=64", "cannot be chosen"]),
        (["--model-kwargs", "num_classes=5"], ["num_classes=5", "cannot be chosen", "features_only"]),
        (["--model-kwargs", "drop_rate={1, 2}"], ["drop_rate={1, 2}", "a number"]),
        (["--save-minutes", "nan"], ["--save-minutes nan", "0 or more"]),
        (["--save-minutes", "-1"], ["--save-minutes -1"]),
        (["--seed", "-1"], ["--seed -1", "2147483647"]),
        (["--batch-size", "2"], ["--batch-size 2", "1 piece:", "at least 4"]),
        (["--overfit", "1"], ["1 training images", "at least 2"]),
        (["--flip", "vertical"], ["vertical", "none", "horizontal"]),
        (["--freeze"], ["--freeze", "--pretrained"]),
        (["--pretrained", "/no/such/run"], ["/no/such/run", "safetensors"]),
        (["--pretrained"], ["tiny_net"]),
        (["--cuda-graphs"], ["--cuda-graphs", "cpu"]),
        (["--dataset", "./pictures"], ["no folder './pictures'"]),
        (["--unknown"], ["--unknown"]),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], words: list[str], run: Run, tmp_path: Path) -> None:
    status, _, errors = run(*TINY, "--output-dir", tmp_path / "run", *arguments)
    line = one_line(errors)
    assert status == 2
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()  # it would be in the way of the right command


def test_accumulation_that_accelerate_was_told_of_gets_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`launch --gradient_accumulation_steps 4`: Accelerate would then shorten each gradient to a quarter."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    status, _, errors = run(*TINY, "--output-dir", tmp_path / "run")
    assert status == 2
    assert "--micro-batches" in one_line(errors)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_pictures_that_has_moved_is_named(run: Run, tmp_path: Path) -> None:
    status, _, errors = run("--model", "tiny_net", "--dataset", "/no/such/pictures", "--output-dir", tmp_path / "run")
    assert status == 2
    assert "no folder '/no/such/pictures' here" in one_line(errors)


def test_a_run_folder_that_is_a_file_gets_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    status, _, errors = run(*TINY, "--output-dir", tmp_path / "run")
    assert status == 2
    assert "run is a file" in one_line(errors)
    assert (tmp_path / "run").read_text() == "mine"


def test_corrupt_parquet_gets_one_line(run: Run, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "mnist", tmp_path / "mnist")
    for file in tmp_path.rglob("train-*.parquet"):
        file.write_bytes(file.read_bytes()[:10_000])
    status, _, errors = run(*TINY, "--data-dir", tmp_path, "--output-dir", tmp_path / "run")
    assert status == 2
    assert "'mnist'" in one_line(errors)


def test_tracker_that_is_not_installed_gets_one_line(run: Run, tmp_path: Path) -> None:
    missing = [name for name in ("wandb", "mlflow", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    status, _, errors = run(*TINY, "--output-dir", tmp_path / "run", "--tracker", missing[0])
    assert status == 2
    assert f"pip install {missing[0]}" in one_line(errors)


def test_folder_of_something_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    status, _, errors = run(*TINY, "--output-dir", tmp_path)
    assert status == 2
    assert str(tmp_path) in one_line(errors)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_loss_that_is_not_finite(run: Run, tmp_path: Path) -> None:
    status, _, errors = run(*TINY, "--learning-rate", 1e35, "--mixed-precision", "no", "--output-dir", tmp_path / "run")
    assert status == 1
    assert "the loss is not finite at step " in one_line(errors)
