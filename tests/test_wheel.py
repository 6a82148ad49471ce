"""The wheel: installed outside the checkout, it has the weights, the commands, and a server that needs no torch."""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import urllib.request
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from deep_image_zoo import COMMANDS

ROOT = Path(__file__).parents[1]
PARTS = ("zoo", "train", "serve", "model_cards", "deploy")
FILES = ("pyproject.toml", "setup.py", "deep_image_zoo.py", "README.md", "LICENSE")
MODEL = ROOT / "model_cards" / "improved_googlenet.mnist"
DIGIT = ROOT / "serve" / "examples" / "digit-4-of-mnist.png"
# Bytes of the packages in deploy/requirements-serve-cpu.txt, as they are downloaded: without the bytecode that Python
# adds when it imports them, and without this project.
MOST = 350e6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("serve")]


def without_the_checkout(**environment: str) -> dict[str, str]:
    """The environment without what leads to the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ZOO_"))}
    return clean | environment


def run(*command: str | Path, **environment: str) -> str:
    """Run a command outside the checkout; return what it prints."""
    environment = without_the_checkout(**environment)
    done = subprocess.run(
        command, env=environment, cwd="/", check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, source)
    shutil.rmtree(source)
    (file,) = target.iterdir()
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which finds all other packages in that of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", wheel)
    return folder / "bin"


def test_it_holds_the_weights_and_no_onnx_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    cards = {folder.name for folder in (ROOT / "model_cards").iterdir()}
    assert {name.split("/")[2] for name in names if name.startswith("zoo/model_cards/")} == cards
    for card in cards:
        assert f"zoo/model_cards/{card}/model.safetensors" in names
    assert not [name for name in names if name.endswith(".onnx") or name.startswith(("tests", "benchmarks"))]
    assert "zoo/py.typed" in names
    print(f"wheel: {wheel.stat().st_size / 1e6:.0f} MB")


def test_weights_load_anywhere_and_offline(environment: Path) -> None:
    code = "import timm, zoo; model = timm.create_model('improved_resnet18.mnist', pretrained=True); "
    code += "print(zoo.__file__, zoo.__version__, model.pretrained_cfg['file'])"
    file, version, weights = run(environment / "python", "-c", code, HF_HUB_OFFLINE="1").split()
    assert Path(file).is_relative_to(environment.parent)
    assert Path(weights).is_relative_to(Path(file).parent)
    assert run(environment / "deep-image-zoo", "--version") == f"deep-image-zoo {version}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_there(command: str, environment: Path) -> None:
    assert f"usage: deep-image-zoo {command} " in run(environment / "deep-image-zoo", command, "--help")


def test_commands_work_on_copies_in_the_users_cache(environment: Path, tmp_path: Path) -> None:
    """The package itself stays as it is."""
    name = "improved_googlenet.mnist"
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    code = f"from train.training import models; print(models.card({name!r}))"
    card = Path(run(environment / "python", "-c", code, **cache).strip())
    assert card == tmp_path / "deep-image-zoo" / "model_cards" / name
    said = run(environment / "deep-image-zoo", "export", name, **cache)
    assert re.search(rf"^ONNX 1/1 {re.escape(name)} \d+ s \(.*\)$", said, re.MULTILINE)
    built = {file.name for file in card.glob("*.onnx")}
    assert built == {"model.onnx", "model.int8.onnx", "model.int8-amx.onnx", "model.study.onnx"}
    assert not list(environment.parent.rglob("*.onnx"))
    run(environment / "deep-image-zoo", "verify", "--samples", name, **cache)
    # An older copy is replaced, with the ONNX files of its weights.
    (card / "metrics.json").write_text("{}")
    run(environment / "python", "-c", code, **cache)
    assert json.loads((card / "metrics.json").read_text())["model"] == "improved_googlenet"
    assert not list(card.glob("*.onnx"))


def answers(python: Path, *arguments: str | Path, **environment: str) -> str:
    """Start the server, classify a digit with `improved_googlenet.mnist`, end the server; return the label."""
    command = [python, "-m", "serve", "--port", "0", "--linger", "0", *arguments]
    environment = without_the_checkout(**environment)
    with subprocess.Popen(command, cwd="/", env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            request = urllib.request.Request(f"{url}/classify/{MODEL.name}?top_k=1", data=DIGIT.read_bytes())
            with urllib.request.urlopen(request, timeout=60) as response:
                label: str = json.load(response)["predictions"][0]["label"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    return label


@pytest.mark.skipif(not (MODEL / "model.onnx").exists(), reason=f"{MODEL}/model.onnx was not built: make onnx")
def test_a_server_without_torch_is_small(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    run(*install, "-r", ROOT / "deploy" / "requirements-serve-cpu.txt")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    print(f"requirements-serve-cpu.txt: {size / 1e6:.0f} MB")
    assert size <= MOST
    run(*install, "--no-deps", wheel)
    names = {found.name for found in distributions(path=[str(packages)])}
    assert "deep-image-zoo" in names
    assert names.isdisjoint({"torch", "timm", "onnxruntime-gpu", "scipy"})
    models = tmp_path / "models"
    shutil.copytree(MODEL, models / MODEL.name)
    assert answers(python, "--models", models) == "4"
    command: list[str | Path] = [python, "-m", "serve"]
    done = subprocess.run(
        command, cwd=tmp_path, env=without_the_checkout(), check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.endswith("building them needs more packages: pip install 'deep-image-zoo[train]'\n")
    assert len(done.stderr.splitlines()) == 1
