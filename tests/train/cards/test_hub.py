"""Cards for other readers: whole weights, and the Hub, of which a server on this machine stands in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
import timm
import torch
from fake_hub import FakeHub
from safetensors.torch import load_file

import zoo
from train import publish
from train.cards import hub as pushing
from train.cards.compact import MODEL_TYPE, for_other_readers
from train.files import sha256
from train.training import models

NAME = "vanilla_resnet18.mnist"
COMPACT = "improved_resnet18.mnist"


def logits(model: torch.nn.Module) -> torch.Tensor:
    """The outputs for two grey images of 64x64 pixels."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.randn(2, 1, 64, 64, generator=generator))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / COMPACT
    assert publish.main([COMPACT, "--full", "--output-dir", str(folder)]) == 0
    return folder


def test_the_whole_card_is_what_timm_loads(whole: Path) -> None:
    tensors = load_file(whole / "model.safetensors")
    expected = timm.create_model(COMPACT, pretrained=True)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }
    assert {tensor.dtype for tensor in tensors.values() if tensor.ndim > 1} == {torch.float16}
    found = timm.create_model(f"local-dir:{whole}", pretrained=True)
    torch.testing.assert_close(logits(found), logits(expected), atol=0.02, rtol=0.01)
    assert not list(whole.glob("*.onnx"))
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["safetensors_sha256"] == sha256(whole / "model.safetensors")


def test_transformers_and_accelerate_read_it(whole: Path) -> None:
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    expected = logits(timm.create_model(COMPACT, pretrained=True))
    model, info = transformers.AutoModelForImageClassification.from_pretrained(
        whole, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == dict(enumerate("0123456789"))
    torch.testing.assert_close(logits(model.timm_model), expected, atol=0.02, rtol=0.01)
    empty = timm.create_model(COMPACT).float()
    loaded = accelerate.load_checkpoint_and_dispatch(empty, str(whole / "model.safetensors"), device_map={"": "cpu"})
    torch.testing.assert_close(logits(loaded.float()), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("card", models.cards(), ids=lambda card: card.name)
def test_transformers_reads_a_card_as_it_is_or_refuses_it(card: Path) -> None:
    """Never random weights: it cannot expand the compact ones."""
    transformers = pytest.importorskip("transformers")
    if "googlenet" in card.name:  # in half precision, but whole
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            card, output_loading_info=True, dtype=torch.float32
        )
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        expected = timm.create_model(card.name, pretrained=True).state_dict()
        for name, tensor in model.timm_model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        return
    with pytest.raises(ValueError, match=f"model type `{MODEL_TYPE}`"):
        transformers.AutoModelForImageClassification.from_pretrained(card)
    with pytest.raises(TypeError, match="num_classes"):
        transformers.TimmWrapperForImageClassification.from_pretrained(card)


def test_only_whole_weights_are_for_other_readers(whole: Path) -> None:
    """`config.json` follows from the weights, in both directions."""
    card = models.card(COMPACT)
    config = json.loads((card / "config.json").read_text())
    assert config["model_type"] == MODEL_TYPE
    assert config["model_args"]["num_classes"] == 10
    tensors = load_file(card / "model.safetensors")
    assert for_other_readers(config, tensors) == config
    expanded = for_other_readers(config, load_file(whole / "model.safetensors"))
    assert expanded == json.loads((whole / "config.json").read_text())
    assert "model_type" not in expanded
    assert "num_classes" not in expanded["model_args"]


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert publish.main([COMPACT, "--full", "--output-dir", str(tmp_path)]) == 2
    assert f"--output-dir that is new or empty, not {tmp_path}" in capsys.readouterr().err


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub.serving() as served:
        yield served


def run(code: str, hub: FakeHub, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with this Hub: its client reads the address when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "token",
        "HF_HUB_DISABLE_XET": "1",  # a protocol of its own, for which this Hub has no routes
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    return subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)


PUSH = """
import sys, pathlib
from train import publish
from train.cards import hub
hub.outdated = lambda card: False  # whatever ONNX files lie there
hub.files = lambda card: sorted(file.name for file in card.glob("*.onnx"))
sys.exit(publish.main([sys.argv[1] if len(sys.argv) > 1 else CARD, "--push", NAME]))
"""
LOAD = """
import timm, zoo
model = timm.create_model(NAME, pretrained=True)
print(model.pretrained_cfg["hf_hub_id"], float(sum(t.double().sum() for t in model.state_dict().values())))
"""


@pytest.mark.slow
def test_a_card_goes_to_the_hub_and_comes_back(hub: FakeHub, tmp_path: Path) -> None:
    card, repository = models.REPOSITORY / "model_cards" / NAME, f"someone/{NAME}"
    push = PUSH.replace("CARD", repr(str(card))).replace("NAME", repr(repository))
    for _ in range(2):  # the second updates it
        done = run(push, hub, tmp_path / "author")
        assert done.returncode == 0, done.stderr
        assert f"{hub.address}/{repository}/commit/" in done.stdout
    tag = f"v{zoo.__version__}"
    files = hub.repositories[repository][tag]
    assert {"README.md", "config.json", "metrics.json", "model.safetensors"} <= set(files)
    assert "num_classes" not in json.loads(files["config.json"])["model_args"]
    text = files["README.md"].decode()
    assert f'timm.create_model("hf-hub:{repository}", pretrained=True)' in text
    assert "ORG" not in text
    assert f"{len(files['model.safetensors']) / 1e6:.1f} MB (`model.safetensors`): half precision" in text

    # Somebody with timm and this package alone, without its weights.
    load = LOAD.replace("NAME", repr(NAME))
    variables = {"ZOO_HUB_ORG": "someone", "ZOO_MODEL_CARDS": str(tmp_path / "none")}
    hub.cut = 15 * 2**20  # the client writes 10 MiB at a time
    hub.ranges.clear()
    done = run(load, hub, tmp_path / "reader", **variables)
    if done.returncode:  # the client gave up, and goes on where it stopped
        done = run(load, hub, tmp_path / "reader", **variables)
    assert done.returncode == 0, done.stderr
    assert f"bytes={10 * 2**20}-" in hub.ranges
    assert done.stdout.startswith(f"{repository}@{tag} ")
    total = float(done.stdout.split()[1])
    expected = timm.create_model(NAME, pretrained=True)
    assert total == pytest.approx(float(sum(t.double().sum() for t in expected.state_dict().values())), abs=1)

    hub.damaged = True
    done = run(load, hub, tmp_path / "other", **variables)
    assert done.returncode
    assert f"The download of model.safetensors from {repository}@{tag} is damaged" in done.stderr
    hub.damaged = False
    assert run(load, hub, tmp_path / "other", **variables).returncode == 0


def test_a_name_that_the_hub_refuses_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its client does, before it asks the Hub."""
    monkeypatch.setattr(pushing, "outdated", lambda _: False)  # whatever ONNX files lie there
    monkeypatch.setattr(pushing, "files", lambda _: [])
    assert publish.main([str(models.card(NAME)), "--push", "no/such/name"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("publish.py: cannot push to 'no/such/name': ")
