"""A run on images of one's own: what it says, keeps and compares, and whose classifier it starts from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tiny_networks
import torch
from conftest import one_line, reset_accelerate
from safetensors.torch import load_file

from train import evaluate
from train.cards import provenance, publishing
from train.data import manifest
from train.paper import paper
from train.records import RunDescription, read
from train.training import loop, models
from train.training.averaging import Averaging
from train.training.runs import epoch_log

Run = Callable[..., tuple[int, str, str]]
LABELS = ("ant", "bee", "cow")
pytestmark = pytest.mark.usefixtures("no_pictures")


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    label, i = file.parent.name, int(file.stem)
    PIL.Image.new("RGB", (16, 16), (80 * (ord(label[0]) % 3), i, len(label))).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in LABELS:
        for i in range(30):
            image(tmp_path / "animals" / label / f"{i}.png")
    return tmp_path / "animals"


@pytest.fixture
def arguments(folder: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("--model", "tiny_net", "--dataset", folder, "--epochs", 1, "--output-dir", tmp_path / "run")


def test_evaluation_follows_the_training_batch(
    run: Run, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier's fit, the validation and the test, all of which take less memory than a training step."""
    seen: dict[bool, list[int]] = {}
    forward = tiny_networks.TinyNet.forward

    def noted(net: tiny_networks.TinyNet, x: torch.Tensor) -> Any:
        seen.setdefault(net.training, []).append(len(x))
        return forward(net, x)

    assert run(*arguments)[0] == 0
    weights = Path(shutil.copytree(tmp_path / "run", tmp_path / "weights"))
    classes = json.loads((weights / "args.json").read_text()) | {"class_names": ["x", "y", "z"]}
    (weights / "args.json").write_text(json.dumps(classes))
    monkeypatch.setattr(tiny_networks.TinyNet, "forward", noted)
    for flags, trained, evaluated in (
        (("--batch-size", 8, "--micro-batches", 2), 4, 16),
        (("--batch-size", 8, "--eval-batch-size", 3), 8, 3),
    ):
        seen.clear()
        more = ("--pretrained", weights, "--output-dir", tmp_path / f"of {evaluated}")
        assert run(*arguments, *flags, *more)[0] == 0
        assert {training: max(sizes) for training, sizes in seen.items()} == {True: trained, False: evaluated}
        assert seen[False].count(evaluated) >= 72 // evaluated
    status, _, errors = run(*arguments, "--eval-batch-size", 0)
    assert status == 2
    assert "--eval-batch-size 0: must be at least 1" in one_line(errors)


def test_what_the_fitted_classifier_reaches_is_said(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what fine-tuning has to reach; where it does not, the classifier's weights are kept, and a line says so."""
    assert run(*arguments)[0] == 0
    (folder / "ant").rename(folder / "ape")
    more = ("--pretrained", tmp_path / "run")
    status, output, _ = run(*arguments, *more, "--output-dir", tmp_path / "second")
    assert status == 0
    assert "The classifier on frozen features has a validation accuracy of " in output.partition("Epoch 1/")[0]
    monkeypatch.setattr(loop, "Averaging", lambda model, _: Averaging(model, 100.5))
    for flags, told in (((), True), (("--freeze",), False)):
        folder_of = tmp_path / f"third {told}"
        output = run(*arguments, *more, *flags, "--output-dir", folder_of)[1]
        assert ("Kept 0 % of the way from the classifier on frozen features" in output) == told
        (row,) = epoch_log.read(folder_of / "log.csv")
        assert row.get("share_of_training") == (0 if told else None)
    assert "classifier on frozen features" not in run(*arguments, "--output-dir", tmp_path / "random")[1]


def test_a_derived_batch_has_four_images_for_each_piece(
    run: Run, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    """Eight processes, or one with as many micro-batches; a batch size that is given is refused instead."""
    status, output, errors = run(*arguments, "--micro-batches", 8)
    assert (status, errors) == (0, "")
    assert "batches of 32," in output
    other = (*arguments[:-1], tmp_path / "other", "--micro-batches", 8)
    status, _, errors = run(*other, "--batch-size", 16)
    assert status == 2
    assert one_line(errors) == "fit.py: --batch-size 16 is too small for 8 pieces: at least 32"
    assert run(*other, "--overfit", 20)[0] == 0


def unfinished(folder: Path) -> Path:
    (folder / "metrics.json").unlink()
    return folder


def test_a_run_says_what_it_read_and_keeps_the_list(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    (folder / "labels.csv").write_text("a\n")
    (folder / "ant" / "0.png").write_bytes(b"damaged")
    status, _, errors = run(*arguments)
    assert status == 2
    assert "(ant/0.png) cannot be read" in one_line(errors)
    assert not (tmp_path / "run").exists()
    status, output, errors = run(*arguments, "--skip-unreadable")
    assert (status, errors) == (0, "")
    (line,) = [line for line in output.splitlines() if line.startswith("Read ")]
    assert line.startswith("Read 89 images of 3 classes (29 to 30 in each class): ")
    assert "1 of 91 files are not images" in line
    assert "1 of 90 images cannot be read and are left out, among them ant/0.png" in line
    rows = manifest.read(tmp_path / "run" / "files.csv")
    assert len(rows) == 89
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    assert args["data_options"] == {"skip_unreadable": True}
    assert args["train_images"] == sum(row.split == "train" for row in rows)


def added(folder: Path) -> None:
    image(folder / "ant" / "99.png")


def removed(folder: Path) -> None:
    (folder / "bee" / "7.png").unlink()


def class_added(folder: Path) -> None:
    shutil.copytree(folder / "ant", folder / "bear")
    for file in (folder / "bear").iterdir():
        image(file)


def class_renamed(folder: Path) -> None:
    (folder / "bee").rename(folder / "zebra")


def swapped(folder: Path) -> None:
    for a, b in (("ant", "aside"), ("bee", "ant"), ("aside", "bee")):
        (folder / a).rename(folder / b)


def renamed(folder: Path) -> None:
    (folder / "bee" / "7.png").rename(folder / "bee" / "seven.png")


CHANGES = {
    added: "1 added (ant/99.png)",
    removed: "1 removed (bee/7.png)",
    class_added: "30 added (bear/0.png, ...)",
    class_renamed: "30 in another class or split (bee/",
    swapped: "60 in another class or split (ant/",
    renamed: "files were renamed, which changes their order",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_on_other_images(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    assert run(*arguments)[0] == 0
    unfinished(tmp_path / "run")
    assert run(*arguments, "--resume")[0] == 0
    unfinished(tmp_path / "run")
    change(folder)
    status, _, errors = run(*arguments, "--resume")
    assert status == 2
    line = one_line(errors)
    assert "the images are not those that the run saw" in line
    assert CHANGES[change] in line


def test_other_shares_are_another_run(run: Run, arguments: tuple[object, ...], tmp_path: Path) -> None:
    assert run(*arguments, "--val-split", 0.3, "--test-split", 0.2)[0] == 0
    rows = manifest.read(tmp_path / "run" / "files.csv")
    held_out = [sum(row.split == split for row in rows) for split in ("validation", "test")]
    assert 14 <= held_out[0] <= 42
    assert 8 <= held_out[1] <= 30
    unfinished(tmp_path / "run")
    assert run(*arguments, "--resume")[0] == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--val-split", 2), "--val-split 2: must be above 0 and below 1"),
        (("--val-split", 0.5, "--test-split", 0.5), "leave nothing to train on"),
        (("--val-split", "x"), "--val-split"),
        (("--label-column", "label"), "no table"),
    ],
)
def test_flags_that_make_no_sense(
    run: Run, arguments: tuple[object, ...], tmp_path: Path, flags: tuple[object, ...], words: str
) -> None:
    status, _, errors = run(*arguments, *flags)
    assert status == 2
    assert words in one_line(errors)
    assert not (tmp_path / "run").exists()


def test_a_folder_called_like_the_papers_datasets_is_refused_before_training(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    folder.rename(tmp_path / "cifar10")
    status, _, errors = run(*arguments, "--dataset", tmp_path / "cifar10")
    assert status == 2
    assert "is called like the paper's dataset: rename it" in one_line(errors)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_onnx")
def test_the_card_and_its_commands_read_the_same_splits(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "ant" / "0.png").write_bytes(b"damaged")
    flags = ("--test-split", 0.25, "--skip-unreadable")
    assert run(*arguments, *flags)[0] == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "--test-split 0.25 --skip-unreadable" in provenance.command(
        read(RunDescription, tmp_path / "run" / "args.json")
    )
    reset_accelerate()
    card = publishing.publish(tmp_path / "run", tmp_path / "card", None, False, paper.accuracy)
    options = {"test_share": 0.25, "skip_unreadable": True}
    for file in ("config.json", "metrics.json"):
        assert json.loads((card / file).read_text())["data_options"] == options
    for name in (tmp_path / "run", card):
        reset_accelerate()
        assert evaluate.main([str(name), "--output-dir", str(tmp_path / name.name / "evaluation")]) == 0
        found = json.loads((tmp_path / name.name / "evaluation" / "figures.json").read_text())
        assert found["test_images"] == metrics["test_images"]


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize("form", ["run", "card"])
def test_a_classifier_of_other_classes_is_not_taken_over(
    run: Run, folder: Path, arguments: tuple[object, ...], tmp_path: Path, form: str
) -> None:
    """Where the names are the same ones in another order, it would take ants for cows."""
    assert run(*arguments)[0] == 0
    weights = tmp_path / "run"
    if form == "card":
        reset_accelerate()
        weights = publishing.publish(weights, tmp_path / "card", None, True, paper.accuracy)
    classifier = load_file(weights / "model.safetensors")["fc.weight"]

    def start(names: list[str]) -> Any:
        model: Any = models.create("tiny_net", str(folder), len(names), 3, str(weights), class_names=names)
        assert models.pretrained_cfg(model)["num_classes"] == len(names)
        assert torch.equal(model.conv1.weight, load_file(weights / "model.safetensors")["conv1.weight"])
        return model.fc.weight

    assert torch.equal(start(["ant", "bee", "cow"]), classifier)
    for names in (["cow", "bee", "ant"], ["ant", "bee", "dog"]):
        assert not torch.equal(start(names), classifier)
    other = ("--pretrained", weights, "--output-dir", tmp_path / "second")
    assert "the classifier is trained" not in run(*arguments, *other)[1]
    (folder / "cow").rename(folder / "a cow")  # is the first one now
    status, output, _ = run(*arguments, "--pretrained", weights, "--output-dir", tmp_path / "third")
    assert status == 0
    assert "The weights of --pretrained are for other classes: the classifier is a new one" in output


def test_published_weights_of_as_many_other_classes(tmp_path: Path) -> None:
    assert models.classes_of("published", "vanilla_googlenet.mnist") == list("0123456789")
    assert models.classes_of(str(tmp_path / "weights.safetensors"), "vanilla_googlenet.mnist") is None
    options = (str(tmp_path), 10, 3, "published", None)
    whole: Any = models.create("vanilla_googlenet.cifar10", *options)
    own: Any = models.create("vanilla_googlenet.cifar10", *options, class_names=list("abcdefghij"))
    assert torch.equal(own.conv1.conv.weight, whole.conv1.conv.weight)
    assert not torch.equal(own.fc.weight, whole.fc.weight)
