"""What a card says: its metrics, the command that repeats its run, the README's table, and cards of own images."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
from conftest import torch_logits
from huggingface_hub import ModelCard
from PIL import Image

from train import card as card_command
from train import publish, records
from train.cards import model_card, provenance, publishing, readme_table, wording
from train.data import loading
from train.onnx_export import metadata
from train.training import arguments, models, recipes
from zoo.catalog import DATASETS

PLAIN = recipes.as_settings(recipes.PAPER_VANILLA)


def test_training_command_repeats_the_run(card: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, metrics = (json.loads((run_folder / "args.json").read_text()), json.loads((card / "metrics.json").read_text()))
    monkeypatch.setattr(arguments, "emulates_bf16", lambda: False)

    def settings(metrics: dict[str, Any]) -> records.RunSettings:
        return records.parse(records.RunSettings, metrics, card / "metrics.json")

    def parsed(metrics: dict[str, Any]) -> Any:
        return arguments.parse(shlex.split(provenance.command(settings(metrics)).partition("train/fit.py ")[2]))

    args = parsed(metrics)
    assert (args.model, args.dataset, args.seed, args.pretrained) == ("tiny_net", run["dataset"], 0, None)
    assert (args.learning_rate, args.epochs) == (0.05, 2)
    images = run["train_images"]
    assert json.loads(json.dumps(vars(arguments.recipe_for(args, images)), default=vars)) == run["settings"]
    assert "git checkout" not in (card / "README.md").read_text()

    metrics["model"] = "improved_resnet18"  # its images grow
    metrics["train_images"] = DATASETS[run["dataset"]].train_images - DATASETS[run["dataset"]].validation_images
    grown = recipes.as_settings(recipes.get("fast", metrics["model"], run["dataset"]))
    args = parsed(metrics | {"settings": grown | {"sizes": []}})
    assert args.full_size
    assert arguments.recipe_for(args).sizes == ()
    assert not parsed(metrics | {"settings": grown}).full_size
    assert not provenance.changed_beyond_flags(settings(metrics | {"settings": grown | {"sizes": []}}))
    assert provenance.changed_beyond_flags(settings(metrics | {"settings": grown | {"sizes": [[0.5, 0.25]]}}))

    more = {"model_kwargs": {"aux": True, "act": "a b"}, "pretrained": "published", "overfit": 32}
    args = parsed(metrics | more)
    assert arguments.model_kwargs(args.model_kwargs) == more["model_kwargs"]
    assert (args.pretrained, args.overfit) == ("published", 32)
    assert parsed(metrics | {"pretrained": "colour"}).pretrained == "colour"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--epochs", "5"],
        ["--batch-size", "64"],
        ["--batch-size", "64", "--learning-rate", "0.01", "--epochs", "7"],
        ["--pretrained"],
        ["--pretrained", "--freeze", "--flip", "horizontal"],
        ["--overfit", "32", "--batch-size", "8"],
        ["--recipe", "paper", "--flip", "none"],
    ],
)
def test_training_command_repeats_a_run_on_own_images(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings follow from the number of images, other than those that its flags override."""
    monkeypatch.setattr(arguments, "emulates_bf16", lambda: False)
    args = arguments.parse(["--model", "improved_resnet18", "--dataset", "owner/birds", *flags])
    images = args.overfit or 300
    settings = recipes.as_settings(arguments.recipe_for(args, images))
    run = records.RunSettings(
        model=args.model,
        dataset=args.dataset,
        recipe=args.recipe,
        settings=settings,
        seed=0,
        overfit=args.overfit,
        pretrained=args.pretrained,
        train_images=images,
    )
    command = provenance.command(run)
    again = arguments.parse(shlex.split(command.partition("train/fit.py ")[2]))
    assert recipes.as_settings(arguments.recipe_for(again, images)) == settings
    assert not provenance.changed_beyond_flags(run)
    assert {flag for flag in flags if flag.startswith("--")} <= set(command.split())
    if not flags:
        assert "--epochs" not in command


TEACHER = {"name": "a_net.mnist", "share": 0.9, "temperature": 2, "test_accuracy": 99.0, "published": True}
TEACHER |= {"safetensors_sha256": "ab", "git_commit": "abc"}


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"settings": PLAIN}, []),
        ({"settings": PLAIN | {"label_smoothing": 0.1}}, ["smoothed labels"]),
        ({}, ["augmented images and smoothed labels"]),
        ({"teacher": TEACHER}, ["augmented images, smoothed labels and the teacher's outputs"]),
    ],
)
def test_card_says_why_the_curves_cannot_be_compared(twin: Path, changes: dict[str, Any], listed: list[str]) -> None:
    metrics = json.loads((twin / "metrics.json").read_text())
    (twin / "metrics.json").write_text(json.dumps(metrics | changes))
    assert (
        re.findall(r"The training curves are measured on (.*), the validation curves on", model_card.render(twin))
        == listed
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"augmentation": {"flip": "random", "rotation": 10.0, "shift": 0.125, "scale": [0.8, 1.2], "cutout": 0.25}},
            "- Augmentation: random horizontal flip, rotation by up to 10 degrees, shift by up to 12.5 % of the side, "
            "scale 0.8 to 1.2, Cutout of a square of 25 % of the side\n",
        ),
        ({"augmentation": {}}, "- Augmentation: none\n"),
        (
            {"epochs": 60, "sizes": [[0.5, 0.5], [0.75, 0.75]], "side": None},
            "- Input size: 32x32 until 50 % of the epochs, 48x48 until 75 % of the epochs, then 64x64\n",
        ),
        ({"schedule": "fixed", "learning_rate": 0.001}, "- Learning rate: 0.001, constant\n"),
        (
            {"schedule": "milestones", "milestones": [5, 27], "learning_rate": 0.01},
            "- Learning rate: 0.01, divided by ten at the start of epochs 5, 27\n",
        ),
    ],
)
def test_card_tells_the_recipe_in_words(twin: Path, settings: dict[str, Any], words: str) -> None:
    metrics = json.loads((twin / "metrics.json").read_text())
    if "augmentation" in settings:
        settings = {"augmentation": PLAIN["augmentation"] | settings["augmentation"]}
    (twin / "metrics.json").write_text(json.dumps(metrics | {"settings": PLAIN | settings}))
    config = json.loads((twin / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 64, 64]
    (twin / "config.json").write_text(json.dumps(config))
    assert words in model_card.render(twin)


@pytest.mark.parametrize("epochs", [5, 7, 10, 50, 60])
def test_card_tells_the_size_that_each_stage_ends_with(epochs: int) -> None:
    """An epoch in which a share of them is done is the next stage's already."""
    sizes = ((0.5, 0.5), (0.75, 0.75))
    recipe = recipes.Recipe(epochs=epochs, learning_rate=0.1, schedule="one-cycle", sizes=sizes)
    words = "32x32 until 50 % of the epochs, 48x48 until 75 % of the epochs, then 64x64"
    assert wording.input_sizes(recipe, (64, 64)) == words


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ("abc", "This run used the recipe of commit `abc`: run `git checkout abc` before the command."),
        ("abc+", "This run used the recipe of commit `abc` with changes that were not committed."),
        (None, "The commit of this run is not known."),
    ],
)
def test_card_says_where_the_recipe_stood_that_no_flag_gives(twin: Path, commit: str | None, words: str) -> None:
    metrics = json.loads((twin / "metrics.json").read_text()) | {"git_commit": commit}
    del metrics["settings"]["sizes"]  # from before there were any: nothing has changed for this network
    metrics["settings"] |= {"nesterov": False, "weight_decay": 0.1, "batch_size": 128}
    (twin / "metrics.json").write_text(json.dumps(metrics))
    text = model_card.render(twin)
    assert f"Recipe `fast` has changed since this run, in nesterov and weight decay. {words}" in text
    assert "--batch-size 128 " in text  # today's value, but that commit's may be another


def test_card_says_what_its_weights_had_been_before_the_run(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights that a run started from are gone once its own are published in their place."""
    first = json.loads((twin / "metrics.json").read_text()) | {"train_seconds": 3720.0}
    (twin / "metrics.json").write_text(json.dumps(first))
    monkeypatch.setattr(models, "MODEL_CARDS", twin.parent)
    architecture, _, tag = twin.name.partition(".")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: timm.models.PretrainedCfg(tag=tag))
    second = first | {
        "pretrained": "published",
        "earlier": [records.as_dict(run) for run in provenance.earlier_runs(architecture, "published")],
        "git_commit": "abc",
    }
    second |= {"epochs": 9, "train_seconds": 60.0, "safetensors_sha256": "other", "test_accuracy": 77.77}
    (twin / "metrics.json").write_text(json.dumps(second))
    text = model_card.render(twin)
    digest = first["safetensors_sha256"][:16]
    assert f"weights of `{twin.name}` that this version replaced (SHA-256 `{digest}...`), which are in the" in text
    assert "in the repository at commit `abc`: run `git checkout abc`" in text
    assert "9 epochs of" in text
    accuracy = first["test_accuracy"]
    assert f"that it replaced (2 epochs in 1 h 2 min; {accuracy:.2f} % on the test split). The weights" in text
    third = [records.as_dict(run) for run in provenance.earlier_runs(f"{architecture}.{tag}", "published")]
    assert [run["epochs"] for run in third] == [2, 9]
    (twin / "metrics.json").write_text(json.dumps(second | {"earlier": third}))
    assert "(2 epochs in 1 h 2 min, then 9 epochs in 1 min; 77.77 %" in model_card.render(twin)


def test_card_of_a_network_that_began_with_another_ones_weights(twin: Path) -> None:
    """Those are published as they were: nothing has taken their place."""
    metrics = json.loads((twin / "metrics.json").read_text())
    before = {"name": "tiny_net.birds", "epochs": 5, "train_seconds": 60.0, "test_accuracy": 66.6}
    before |= {"git_commit": None}
    metrics |= {"pretrained": "published", "earlier": [before | {"safetensors_sha256": "0" * 64}], "git_commit": "abc"}
    (twin / "metrics.json").write_text(json.dumps(metrics | {"images_per_second": 0.62}))
    text = model_card.render(twin)
    assert "from the published weights of `tiny_net.birds` (5 epochs in 1 min; 66.60 % on the test split)" in text
    assert "The run starts from the weights of `tiny_net.birds` that were published at the time" in text
    assert "replaced" not in text
    assert "(0.6 images/s)" in text
    assert "license:" not in text


def test_card_says_what_runs_were_before_that_are_not_published(twin: Path, tmp_path: Path) -> None:
    """Enough to repeat them, one after the other."""
    metrics = json.loads((twin / "metrics.json").read_text())
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, start, commit in ((first, None, "abc"), (second, str(first), "def")):
        shutil.copytree(twin, folder)
        run = {key: metrics[key] for key in ("model", "model_kwargs", "dataset", "recipe", "settings", "overfit")}
        run |= {"seed": 3, "pretrained": start, "class_names": list(metrics["per_class_accuracy"])}
        run["earlier"] = [records.as_dict(each) for each in provenance.earlier_runs(metrics["model"], start)]
        (folder / "args.json").write_text(json.dumps(run))
        (folder / "metrics.json").write_text(json.dumps(metrics | {"git_commit": commit, "train_seconds": 600.0}))
    assert provenance.earlier_runs(metrics["model"], None) == []
    assert len(provenance.earlier_runs(metrics["model"], str(second))) == 2
    assert provenance.earlier_runs(metrics["model"], str(second / "other.safetensors")) == []
    third = {
        "pretrained": "second",
        "earlier": [records.as_dict(run) for run in provenance.earlier_runs(metrics["model"], str(second))],
        "git_commit": "012",
    }
    (twin / "metrics.json").write_text(json.dumps(metrics | third))
    text = model_card.render(twin)
    unpublished = r"starts from the weights of an unpublished run, which"
    assert re.search(rf"The run {unpublished} `[^`]* --seed 3 --pretrained first` trains", text)
    assert "at commit `def`; they are expected in the folder `second`. That run starts from the weights" in text
    assert re.search(rf"That run {unpublished} `[^`]* --seed 3` trains at commit `abc`; they are expected", text)
    assert "expected in the folder `first`.\n" in text
    assert "from the weights `second` (2 epochs in 10 min, then 2 epochs in 10 min; " in text


def test_the_table_is_that_of_the_checkout_alone(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text(f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n")
    other = Path(shutil.copytree(twin, tmp_path / "other" / twin.name))
    own = Path(shutil.copytree(twin, tmp_path / "model_cards" / twin.name))
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    for cards, published, rows in (
        (other, other, "old"),
        (other, own, "old"),
        (own, other, "old"),
        (own, own, own.name),
    ):
        monkeypatch.setattr(models, "MODEL_CARDS", cards.parent)
        monkeypatch.setattr(publishing, "publish", lambda *_, published=published: published)
        assert publish.main(["run"]) == 0
        assert rows in (tmp_path / "README.md").read_text()


def test_card_states_the_metrics_of_its_weights(card: Path, dataset: loading.Dataset) -> None:
    metrics = json.loads((card / "metrics.json").read_text())
    parsed = ModelCard.load(card / "README.md")
    result, f1 = parsed.data.eval_results
    assert result.metric_value == pytest.approx(metrics["test_accuracy"] / 100, abs=1e-9)
    assert f1.metric_value == pytest.approx(metrics["macro_f1"] / 100, abs=1e-6)
    assert (result.metric_type, result.dataset_split) == ("accuracy", "test")
    assert result.dataset_type == DATASETS[dataset.name].hub_id
    assert (parsed.data.library_name, parsed.data.license) == ("timm", None)  # none of the networks of `zoo`
    assert f"{metrics['test_accuracy']:.2f} %" in parsed.text
    logits = torch_logits(timm.create_model(f"local-dir:{card}", pretrained=True), dataset.test.images)
    right = (logits.argmax(1) == dataset.test.labels.numpy()).mean()
    assert metrics["test_accuracy"] == pytest.approx(100 * right, abs=0.11)


def test_card_of_own_images_names_their_folder(own_card: Path) -> None:
    """The folder's path is only where the project's own commands look for the images."""
    path = str(own_card.parent)
    holding = {file.name for file in own_card.iterdir() if path.encode() in file.read_bytes()}
    assert holding == {"config.json"}
    text = (own_card / "README.md").read_text()
    parsed = ModelCard.load(own_card / "README.md")
    assert parsed.data.datasets is None
    assert parsed.data.eval_results is None
    assert "fine-tuned on the 2 classes of my insects.\n" in text
    assert re.search(
        r": 1 epoch of .* from the weights `first` \(1 epoch in \d+ s; [\d.]+ % on the test split\)\.", text
    )
    (command,) = re.findall(r"^accelerate launch train/fit\.py (.*)$", text, re.MULTILINE)
    args = arguments.parse(shlex.split(command))
    assert (args.dataset, args.pretrained) == ("my insects", "first")
    assert "`my insects` is an image folder that is available only where the network was trained. The run st" in text
    assert "they are expected in the folder `first`." in text
    # The images have 50x40 pixels.
    assert "**Image size:** 32x32 pixels; the training images were cropped and resized to it" in text
    assert "It was trained on images resized to 32x32 pixels" in text
    assert "`python train/export.py 'tiny_net.my insects'`" in text
    assert metadata.stated(own_card / "model.onnx")["tag"] == "my insects"


def test_names_of_ones_own_do_not_break_the_tables(own_card: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own_card, tmp_path / own_card.name))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["per_class_accuracy"] = {"be|e": 50.0, "wasp": 75.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "| be\\|e | 50.00 |" in model_card.render(folder).splitlines()
    rows = readme_table.with_rows(f"{readme_table.BEGIN}\n{readme_table.END}", [folder])
    assert "| [`tiny_net.my insects`](model_cards/tiny_net.my%20insects) |" in rows


def test_a_damaged_card_gets_one_line(
    twin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "MODEL_CARDS", twin.parent)
    for content in ("{", "[]"):
        (twin / "metrics.json").write_text(content)
        assert card_command.main([]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "metrics.json is damaged" in line


def test_usage_of_own_pictures_runs(
    own_card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = (own_card / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    shutil.copytree(own_card, tmp_path / own_card.name)
    Image.new("RGB", (50, 40), (200, 40, 40)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    assert re.fullmatch(r"(bee: 0\.\d+\nwasp|wasp: 0\.\d+\nbee): 0\.\d+\n", capsys.readouterr().out)
