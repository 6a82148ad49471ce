"""Published models of one's own images, and what is refused where the images are not those of the run."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import onnx
import pytest
import tiny_networks
import torch
from conftest import SAMPLES
from safetensors import SafetensorError

from train import evaluate, export, publish, records, verify
from train.cards import model_card, provenance, publishing
from train.data import loading, tables
from train.data.reference import DataError
from train.onnx_export import build, graph, metadata, quantize
from train.paper import paper
from train.training import distillation, models
from train.training.runs import run_data
from zoo.calibration import of_weights


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def renamed(own_card: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A card and a run of bees and wasps, whose dataset holds bees and hornets."""
    pictures = tmp_path / "others"
    shutil.copytree(own_card.parent / "my insects", pictures)
    (pictures / "wasp").rename(pictures / "hornet")
    card, run = tmp_path / own_card.name, tmp_path / "run"
    shutil.copytree(own_card, card)
    shutil.copytree(own_card.parent / "second", run)
    for file in (card / "config.json", run / "args.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": str(pictures)}))
    return card, run


@pytest.mark.parametrize(
    ("main", "what"),
    [
        (evaluate.main, "card"),
        (evaluate.main, "run"),
        (publish.main, "run"),
        (verify.main, "card"),
        (export.main, "card"),
    ],
)
def test_images_of_other_classes_are_refused(
    main: Callable[[list[str]], int], what: str, renamed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card, run = renamed
    capsys.readouterr()
    status = main([str(card if what == "card" else run)])
    output = capsys.readouterr()
    (line,) = (output.err + output.out).strip().splitlines()
    assert status in (1, 2)
    assert "hornet" in line
    assert "wasp" in line


def test_a_teacher_of_other_classes_is_refused(own_card: Path) -> None:
    with pytest.raises(models.ModelError, match=r"bee, wasp.*wasp, bee"):
        distillation.load(str(own_card), ["wasp", "bee"], 3)


def test_classes_in_another_order_and_other_channels_are_refused(mnist: loading.Dataset) -> None:
    names = list(mnist.class_names)
    run_data.require_same_data("net", names, 1, mnist)
    with pytest.raises(DataError, match=r"net was trained on 10 classes \(9, 8.*has 10 \(0, 1"):
        run_data.require_same_data("net", names[::-1], 1, mnist)
    with pytest.raises(DataError, match="net takes images of 3 channels, those of dataset 'mnist' have 1"):
        run_data.require_same_data("net", names, 3, mnist)
    many = [f"class {i}" for i in range(1000)]
    with pytest.raises(DataError) as error:  # shows where they begin to differ, and not all
        run_data.require_same_data("net", [*names, *many], 1, mnist)
    assert len(str(error.value)) < 400


def test_the_runs_own_data_folder_is_used(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publishing, "_write", lambda folder, *_: (folder / "written").touch())
    assert json.loads((run_folder / "args.json").read_text())["data_dir"] == str(SAMPLES)
    publishing.publish(run_folder, tmp_path / "card", None, False, paper.accuracy)
    assert evaluate.main([str(run_folder)]) == 0
    moved = tmp_path / "run"
    shutil.copytree(run_folder, moved)
    run = json.loads((moved / "args.json").read_text())
    (moved / "args.json").write_text(json.dumps(run | {"data_dir": str(tmp_path / "gone")}))
    capsys.readouterr()
    for main, more in ((publish.main, ["--output-dir", str(tmp_path / "other")]), (evaluate.main, [])):
        assert main([str(moved), *more]) == 2
        line = one_line(capsys)
        assert f"{tmp_path / 'gone'}, which is gone" in line
        assert "--data-dir" in line
    publishing.publish(moved, tmp_path / "other", SAMPLES, False, paper.accuracy)


@pytest.fixture
def hub_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that it was asked for."""
    asked: list[str] = []

    class Session:
        def head(self, address: str, timeout: float) -> None:
            asked.append(address)
            raise OSError("Name or service not known")

    def retried(*_: object, **__: object) -> None:
        if not huggingface_hub.constants.is_offline_mode():
            raise AssertionError("half a minute of retries")
        raise ConnectionError("offline")

    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(datasets, "load_dataset", retried)
    tables._stay_offline_without_hub.cache_clear()
    yield asked
    tables._stay_offline_without_hub.cache_clear()


def test_a_dataset_that_the_hub_does_not_give_names_the_flag(
    hub_that_is_gone: list[str], run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once: the run took its images from the Hub, or its version did not record the folder."""
    moved = Path(shutil.copytree(run_folder, tmp_path / "run"))
    run = json.loads((moved / "args.json").read_text())
    (moved / "args.json").write_text(json.dumps(run | {"data_dir": None}))
    for main, more in ((publish.main, ["--output-dir", str(tmp_path / "card")]), (evaluate.main, [])):
        capsys.readouterr()
        assert main([str(moved), *more]) == 2
        line = one_line(capsys)
        assert f"no connection to {huggingface_hub.constants.ENDPOINT}, and it is not in the cache" in line
        assert line.endswith("--data-dir names a folder that holds it")
    assert hub_that_is_gone == [huggingface_hub.constants.ENDPOINT]


def test_a_run_on_a_part_of_the_papers_data_is_none_of_the_projects_models(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"tiny_net.{json.loads((run_folder / 'args.json').read_text())['dataset']}"
    own = models.REPOSITORY / "model_cards" / name
    for more in ([], ["--output-dir", str(own)]):
        capsys.readouterr()
        assert publish.main([str(run_folder), *more]) == 2
        line = one_line(capsys)
        assert "training images" in line
        assert "--output-dir" in line
        assert not own.exists()


def test_ctrl_c_leaves_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(folder: Path, *_: object) -> None:
        (folder / "begun").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_write", stop)
    capsys.readouterr()
    assert publish.main([str(run_folder), "--output-dir", str(tmp_path / "new" / "deep" / "card")]) == 130
    assert one_line(capsys) == "publish.py: stopped"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error")

    monkeypatch.setattr(publishing, "save_file", full)
    monkeypatch.setattr(publishing, "why_unwritable", lambda _: "No space left on device")
    capsys.readouterr()
    assert publish.main([str(run_folder), "--output-dir", str(tmp_path / "card")]) == 1
    assert one_line(capsys) == "publish.py: cannot write card: No space left on device"


def fine_tuned(card: Path, **changes: Any) -> str:
    metrics = json.loads((card / "metrics.json").read_text()) | changes
    (card / "metrics.json").write_text(json.dumps(metrics))
    return model_card.render(card)


def test_card_of_a_fine_tuned_network_is_its_own(own_card: Path, tmp_path: Path) -> None:
    """Started from one of the project's cards, which two runs led to."""
    start = models.REPOSITORY / "model_cards" / "vanilla_googlenet.cifar10"
    earlier = [records.as_dict(run) for run in provenance.earlier_runs("vanilla_googlenet", str(start))]
    assert len(earlier) > 1
    card = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    text = fine_tuned(card, pretrained=start.name, earlier=earlier, model="vanilla_googlenet")
    assert "fine-tuned on the 2 classes of my insects.\n" in text
    assert "Part of a model zoo" not in text
    assert "The last of" not in text
    assert "last of" not in text
    assert "Fine-tuning, seed 0: 1 epoch" in text
    assert f"The run starts from the weights of `{start.name}` that were published at the time" in text
    text = fine_tuned(card, pretrained=None, earlier=[])
    assert "trained on the 2 classes of my insects.\n" in text
    assert "One run, seed 0" in text


def test_card_states_macro_f1_and_what_else_says_something(own_card: Path, tmp_path: Path) -> None:
    card = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    metrics = json.loads((card / "metrics.json").read_text())
    text = fine_tuned(card, confusion_matrix=[[3, 1], [0, 2]])
    assert "| Macro F1 score (mean of the classes) on the test split | 82.86 % |" in text  # of 6/7 and 4/5
    assert "| Balanced test accuracy (mean of the classes, which differ in size) | 87.50 % |" in text
    assert "Top-5" not in text
    text = fine_tuned(card, confusion_matrix=[[3, 1], [0, 4]], top5_accuracy=97.5)
    assert "Balanced" not in text
    assert "| Top-5 test accuracy | 97.50 % |" in text
    accuracies = dict(metrics["per_class_accuracy"], bee=None)
    assert "| bee | - |" in fine_tuned(card, per_class_accuracy=accuracies)


def test_measuring_takes_the_batch_size_that_it_is_given(
    own_card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    forward = tiny_networks.TinyNet.forward

    def noted(net: tiny_networks.TinyNet, x: torch.Tensor) -> Any:
        seen.append(len(x))
        return forward(net, x)

    monkeypatch.setattr(tiny_networks.TinyNet, "forward", noted)
    assert evaluate.main([str(own_card), "--eval-batch-size", "4"]) == 0
    assert max(seen) == 4
    seen.clear()
    assert verify.main([str(own_card), "--eval-batch-size", "2"]) == 0
    assert max(seen) == 2
    for wrong in ("0", "-3", "many"):
        with pytest.raises(SystemExit):
            evaluate.main([str(own_card), "--eval-batch-size", wrong])
        assert f"{wrong!r}: must be a whole number of at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fp32(own_card: Path) -> onnx.ModelProto:
    """The graph of the card's weights: every export of them begins with it."""
    model, config = models.load_card(own_card)
    return graph.build(model, tuple(config["image_size"]), of_weights(model))


@pytest.fixture
def exported_before(fp32: onnx.ModelProto) -> Iterator[None]:
    def copied(*_: object) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(fp32)
        return proto

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "build", copied)
        yield


@pytest.mark.usefixtures("exported_before")
@pytest.mark.parametrize("failure", ["raises", "harms"])
def test_a_model_that_int8_would_harm_has_the_fp32_file_alone(
    failure: str, own_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    quantized = quantize.quantize

    def bad(proto: Any, images: np.ndarray) -> Any:
        if failure == "raises":
            raise RuntimeError("an operator without a form in 8 bits\nmore")
        return quantized(proto, images)

    monkeypatch.setattr(quantize, "quantize", bad)
    if failure == "harms":
        monkeypatch.setattr(build, "_correct", lambda proto, _: 6 if b"QuantizeLinear" not in proto else 3)
    capsys.readouterr()
    assert [path.name for path in build.export(card)] == ["model.onnx"]
    reason = "an operator without a form in 8 bits" if failure == "raises" else "3 of 5 validation images more wrong"
    line = one_line(capsys)
    assert line.startswith(f"{card.name}: no int8 file: ")
    assert reason in line
    assert not list(card.glob("model.int8*"))
    assert not metadata.outdated(card)
    assert evaluate.main([str(card), "--runtime", "onnx-int8"]) == 2
    assert "has no int8 file" in one_line(capsys)
    metrics = json.loads((card / "metrics.json").read_text())
    of_fp32 = {"fp32": metrics["onnx_test_accuracy"]["fp32"]}
    text = fine_tuned(card, onnx_test_accuracy=of_fp32, calibration=metrics["calibration"] | {"int8": None})
    assert "% / none, as int8 would lose too much |" in text
    (card / "README.md").write_text(text)
    assert verify.main([str(card)]) == 0, capsys.readouterr()
    monkeypatch.undo()
    assert len(build.export(card)) == 3
    assert verify.main([str(card)]) == 1
    assert "the ONNX files are fp32, int8, the card states accuracies of fp32" in capsys.readouterr().out
    assert verify.main(["--update", str(card)]) == 0
    assert verify.main([str(card)]) == 0
