"""Imports go one way: zoo -> torch and timm; train -> zoo; serve -> none of these."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(*statements: str) -> list[set[str]]:
    """Top-level modules that a fresh interpreter holds after each of several statements."""
    tell = "\nimport sys\nprint(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    code = "".join(statement + tell for statement in statements)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()[-len(statements) :]]


def test_serving_needs_no_torch() -> None:
    (modules,) = imported("import serve.api, serve.__main__")
    assert {"serve", "numpy", "onnxruntime"} <= modules
    assert not modules & {"torch", "torchvision", "timm", "zoo", "train", "onnx", "accelerate", "datasets"}


def test_the_zoo_needs_torch_and_timm_only_and_training_nothing_of_serving() -> None:
    zoo, train = imported("import zoo", "import train.fit, train.publish")
    assert {"torch", "timm"} <= zoo
    assert not zoo & {"accelerate", "datasets", "serve", "train", "onnxruntime", "matplotlib", "gradio", "pandas"}
    assert {"train", "zoo", "accelerate"} <= train
    assert not train & {"serve", "gradio", "fastapi"}
    # They take long to import: the first images that are read need them.
    assert not train & {"datasets", "pandas"}


# `evaluate` is a library of the Hub's too; nothing here depends on it, and its name is the command's.
ALLOWED = {"evaluate"}


@pytest.mark.parametrize("package", ["zoo", "train", "serve"])
def test_every_folder_of_code_is_a_package_that_says_why_it_exists(package: str) -> None:
    """A folder without `__init__.py` would be missing from the wheel."""
    folders = {file.parent for file in (ROOT / package).rglob("*.py")} - {ROOT / "train" / "samples"}  # data
    assert ROOT / package in folders
    for folder in folders:
        assert (folder / "__init__.py").read_text().startswith('"""'), folder


@pytest.mark.parametrize("folder", ["train", "benchmarks"])
def test_no_script_or_folder_hides_a_module_of_that_name(folder: str) -> None:
    """`accelerate launch train/fit.py` puts the script's folder first on `sys.path`."""
    names = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
    names -= {"__init__", "__pycache__"} | ALLOWED
    assert names
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())
