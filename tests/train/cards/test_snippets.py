"""Every snippet of a card runs as it stands, in a copy of the card's folder, without a warning."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fake_hub
import pytest
from fake_hub import FakeHub
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from train.training import models
from zoo.catalog import DATASETS

# One of each dataset; whole weights and compact ones.
NAMES = ("improved_googlenet.mnist", "improved_resnet18.cifar10")


def snippets(name: str) -> dict[str, str]:
    """The Python blocks of a card, by what tells them apart."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (models.card(name) / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    keys = (
        "zoo.probabilities",
        "features_only",
        "num_classes=0",
        "local-dir:",
        "hf-hub:",
        "transformers",
        "onnxruntime",
    )
    found = {key: block for block in blocks for key in keys if key in block}
    assert len(found) == len(blocks)
    return found


# One process for all snippets of some folders, each with a namespace of its own. Importing torch and timm takes most of
# the time: that happens once, before the processes are forked that find this package in one place or another. Taking
# all of it down again would take a second each time.
EACH = """
import json, os, sys, warnings
import timm, torch
for place, folders in json.load(open(sys.argv[1])).items():
    with warnings.catch_warnings(action="ignore"):  # that libraries have threads: none of them is at work
        child = os.fork()
    if child == 0:
        sys.path.insert(0, place)
        for folder, snippets in folders.items():
            os.chdir(folder)
            for key, code in snippets.items():
                print("##", folder, key)
                exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        os._exit(1)
os._exit(0)
"""


def printed(places: dict[str, dict[str, dict[str, str]]], file: Path, **environment: str) -> dict[str, dict[str, str]]:
    """Run snippets, by the place of the package, folder and what tells them apart; return what each prints."""
    file.write_text(json.dumps(places))
    command = [sys.executable, "-W", "error", "-c", EACH, str(file)]
    variables = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", **environment}
    done = subprocess.run(command, cwd=file.parent, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    said: dict[str, dict[str, str]] = {folder: {} for folders in places.values() for folder in folders}
    for folder, key, text in re.findall(r"^## (.*) (.*)\n((?:(?!## ).*\n)*)", done.stdout, re.MULTILINE):
        said[folder][key] = text
    return said


def runnable(name: str) -> dict[str, str]:
    """The snippets that need no Hub, as far as what they need is there."""
    found = snippets(name)
    found.pop("hf-hub:")  # below
    assert ("transformers" in found) == ("googlenet" in name)  # whole weights
    if find_spec("transformers") is None:
        found.pop("transformers", None)
    if not (models.card(name) / "model.onnx").exists():  # make onnx
        del found["onnxruntime"]
    return found


def downloading(hub: FakeHub, name: str) -> str:
    """The snippet that loads a card from the Hub, which has its files then; and what it says of them."""
    code = snippets(name)["hf-hub:"]
    (repository,) = re.findall(r"hf-hub:([^\"]*)", code)
    assert repository == f"ORG/{name}"
    contents = {file: (models.card(name) / file).read_bytes() for file in ("config.json", "model.safetensors")}
    hub.create(repository)
    hub.commit(
        repository,
        [
            {"key": "file", "value": {"path": file, "content": base64.b64encode(content)}}
            for file, content in contents.items()
        ],
    )
    return f"{code}\nimport zoo.calibration\nprint(zoo.calibration.of_weights(model).temperature, zoo.__file__)"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's code alone, without `model_cards`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(models.REPOSITORY / "zoo", folder / "zoo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def answers(elsewhere: Path) -> dict[str, dict[str, str]]:
    """What all snippets print, by folder."""
    here = {str(models.card(name)): runnable(name) for name in NAMES}
    with fake_hub.serving() as hub:
        places = {
            str(models.REPOSITORY): here,
            str(elsewhere): {str(elsewhere): {name: downloading(hub, name) for name in NAMES}},
        }
        return printed(
            places, elsewhere / "snippets.json", HF_ENDPOINT=hub.address, HF_HOME=str(elsewhere / "cache"),
            HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1",
        )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_snippets_run(name: str, answers: dict[str, dict[str, str]]) -> None:
    found, said = runnable(name), answers[str(models.card(name))]
    assert said.keys() == found.keys()
    label = "4" if name.endswith("mnist") else "frog"
    first, *others = said["zoo.probabilities"].splitlines()
    assert re.fullmatch(rf"{label}: [01]\.\d{{4}}", first)
    assert len(others) == 2
    for key in ("features_only", "num_classes=0"):
        printed = re.findall(r"^torch\.Size\((.*)\)$", said[key], re.MULTILINE)
        stated = re.findall(r"# (\[1, .*\])$", found[key], re.MULTILINE)
        assert printed == (stated if key == "features_only" else stated[:1])
    if "onnxruntime" in found:
        index, labels = said["onnxruntime"].split(maxsplit=1)
        assert json.loads(labels)[int(index)] == label


def test_the_hub_snippets_need_timm_and_this_package_alone(answers: dict[str, dict[str, str]], elsewhere: Path) -> None:
    """Their code alone, without `model_cards`: the repositories have the weights."""
    said = answers[str(elsewhere)]
    assert list(said) == list(NAMES)
    for name, text in said.items():
        temperature, file = text.split()
        assert float(temperature) == json.loads((models.card(name) / "config.json").read_text())["temperature"]
        assert Path(file).is_relative_to(elsewhere)


@pytest.mark.parametrize("card", models.cards(), ids=lambda card: card.name)
def test_the_hub_can_read_a_card(card: Path) -> None:
    """The parts of its checks that need no network."""
    parsed = ModelCard.load(card / "README.md")
    data = parsed.data
    assert ModelCard(str(parsed)).data.to_dict() == data.to_dict()
    index = data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(index)
    assert name == card.name
    metrics = json.loads((card / "metrics.json").read_text())
    dataset = DATASETS[metrics["dataset"]]
    values = {}
    for result in results:
        assert isinstance(result, EvalResult)
        assert (result.task_type, result.dataset_type, result.dataset_split) == (
            "image-classification", dataset.hub_id, "test",
        )  # fmt: skip
        values[result.metric_type] = result.metric_value
    assert values.keys() == {"accuracy", "f1"}
    assert values["accuracy"] == pytest.approx(metrics["test_accuracy"] / 100)
    assert (data.library_name, data.license, data.pipeline_tag) == ("timm", "apache-2.0", "image-classification")
    assert data.datasets == [dataset.hub_id]
    images = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", parsed.text)
    assert {"confusion_matrix.png", "curves.png", "reliability.png", "robustness.png"} <= set(images)
    assert all((card / image).is_file() for image in images)


@pytest.mark.parametrize("card", models.cards(), ids=lambda card: card.name)
def test_a_card_states_cost_and_size(card: Path) -> None:
    text = (card / "README.md").read_text()
    megabytes = (card / "model.safetensors").stat().st_size / 1e6
    (stored,) = re.findall(
        rf"\*\*Weights on disk:\*\* {megabytes:.1f} MB \(`model.safetensors`\): (.*)$", text, re.MULTILINE
    )
    assert ("8-bit blocks" in stored) == ("googlenet" not in card.name)
    assert ("factors of rank" in stored) == ("vgg" in card.name)
    (macs,) = re.findall(r"\*\*MACs \(M\):\*\* ([\d.]+) for an image$", text, re.MULTILINE)
    # timm's tables state 1.8, 1.5 and 15.5 GMACs for the architectures at 224x224 pixels; the work grows with the area.
    side = json.loads((card / "config.json").read_text())["pretrained_cfg"]["input_size"][-1]
    at_224 = {"resnet18": 1820, "googlenet": 1510, "vgg16": 15470}[card.name.split("_")[1].split(".")[0]]
    assert 0.7 < float(macs) / (at_224 * (side / 224) ** 2) < 2
