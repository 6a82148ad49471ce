"""The ablation: each variant differs in one change, results are kept, and the report words what they show."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401  registers the networks
from train import ablate, records
from train.paper import ablation, ablation_report, section4
from train.paper.ablation import AblationError
from train.paper.section4 import IMPROVED, VANILLA
from train.records import Ablation, AblationRun
from train.training import models, recipes
from train.training.arguments import parse, recipe_for

SAMPLES = Path(ablate.__file__).parent / "samples"
NETWORKS = ("improved_vgg16", "improved_resnet18", "improved_googlenet")


def shapes(variant: ablation.Variant) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = timm.create_model(variant.model, num_classes=10, **variant.kwargs)
    return {name: tuple(values.shape) for name, values in model.state_dict().items()}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("model", NETWORKS)
def test_the_ends_are_the_papers(model: str, dataset: str) -> None:
    for name in (VANILLA, IMPROVED):
        network = model.replace(IMPROVED, name)
        found = ablation.variant(model, dataset, name)
        assert (found.model, found.kwargs) == (network, {})
        assert found.recipe == recipes.get("paper", network, dataset)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("model", NETWORKS)
def test_variants_differ_from_their_end_in_one_change(model: str, dataset: str) -> None:
    changes = ablation.changes(model, dataset)
    assert ("colour" in [change.name for change in changes]) == (dataset == "cifar10")
    for change in changes:
        for end, name in ((VANILLA, f"{VANILLA}+{change.name}"), (IMPROVED, f"{IMPROVED}-{change.name}")):
            base, changed = ablation.variant(model, dataset, end), ablation.variant(model, dataset, name)
            before, after = (dataclasses.asdict(dataclasses.replace(v.recipe, side=64)) for v in (base, changed))
            ranges = {key for key, value in before.pop("augmentation").items() if value != after["augmentation"][key]}
            settings = {key for key, value in before.items() if value != after[key]}
            assert settings == set(change.settings)
            assert ranges == {key for key in change.augmentation if key in ranges}
            assert bool(ranges) == bool(change.augmentation)
            assert (base.model, base.kwargs) == (changed.model, changed.kwargs) or change in section4.CHANGES[
                model.partition("_")[2]
            ]


@pytest.mark.parametrize(
    ("model", "name", "like"),
    [
        ("improved_vgg16", "vanilla+norms", ("norm_layer", "avg7")),
        ("improved_vgg16", "vanilla+pool", (None, "max5")),
        ("improved_vgg16", "improved-norms", (None, "max5")),
        ("improved_vgg16", "improved-pool", ("norm_layer", "avg7")),
    ],
)
def test_norms_and_pool_of_vgg16(model: str, name: str, like: tuple[str | None, str]) -> None:
    found = shapes(ablation.variant(model, "cifar10", name))
    assert any("running_mean" in key for key in found) == (like[0] is not None)
    assert found["pre_logits.fc1.weight"][1] == 512 * (49 if like[1] == "avg7" else 25)


@pytest.mark.parametrize("model", ["improved_resnet18", "improved_googlenet"])
def test_the_stem_changes_alone(model: str) -> None:
    vanilla, improved, added, left_out = (
        shapes(ablation.variant(model, "cifar10", name))
        for name in (VANILLA, IMPROVED, "vanilla+stem", "improved-stem")
    )
    assert vanilla == left_out != improved == added


def test_initialisation_and_dropout_of_resnet18() -> None:
    for name, deviation, dropout in (
        ("vanilla+initialisation", 0.01, 0.0),
        ("improved-initialisation", 512**-0.5 / 3**0.5, 0.1),
        ("vanilla+dropout", 512**-0.5 / 3**0.5, 0.1),
        ("improved-dropout", 0.01, 0.0),
    ):
        variant = ablation.variant("improved_resnet18", "cifar10", name)
        model = timm.create_model(variant.model, num_classes=100, **variant.kwargs)
        assert isinstance(model.fc, nn.Linear)
        assert model.fc.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert model.drop_rate == dropout


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(AblationError, match="--model 'vanilla_vgg16': valid are improved_googlenet, improved_resn"):
        ablation.variants("vanilla_vgg16", "cifar10")
    with pytest.raises(AblationError, match="--dataset 'pets': valid are mnist, cifar10"):
        ablation.variants("improved_vgg16", "pets")
    with pytest.raises(AblationError, match=r"--variant 'vanilla\+stam': valid are vanilla, improved, vanilla\+stem"):
        ablation.variant("improved_resnet18", "mnist", "vanilla+stam")


def test_milestones_keep_their_share_of_the_epochs() -> None:
    recipe = recipes.get("paper", "improved_resnet18", "cifar10")
    short = recipes.of_length(recipe, 5)
    assert (short.epochs, short.milestones) == (5, (1.5, 3.7, 5.0, 5.7))
    assert recipes.of_length(recipe, 50) == recipe
    rates = [recipes.learning_rate(short, step, 100) for step in (0, 49, 50, 269, 270, 399, 400, 469, 470)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    args = parse(["--model", "improved_resnet18", "--dataset", "cifar10", "--recipe", "paper", "--epochs", "5"])
    assert recipe_for(args).milestones == short.milestones


def test_fit_trains_the_variant() -> None:
    words = ["--dataset", "cifar10", "--variant", "improved_resnet18", "improved-stem"]
    args = parse(["--model", "improved_resnet18", "--recipe", "paper", "--epochs", "5", *words])
    ablation.choose(args, *args.variant)
    assert args.model_kwargs == ["stem_type=''", "stem_width=64"]
    assert recipe_for(args).label_smoothing == 0.1
    for flag, value, needed in (("--model", "vanilla_resnet18", "improved_resnet18"), ("--recipe", "fast", "paper")):
        given = {"--model": "improved_resnet18", "--recipe": "paper", flag: value}
        args = parse([*(word for pair in given.items() for word in pair), *words])
        with pytest.raises(AblationError, match=f"{flag} {value}: --variant .* needs {needed}"):
            ablation.choose(args, *args.variant)


# In the place of fit.py: a run of one image that writes what a run leaves.
STUB = """
import json, pathlib, sys
values = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = pathlib.Path(values["--output-dir"])
folder.mkdir(parents=True)
here = pathlib.Path(sys.argv[0]).parent
with (here / "calls").open("a") as calls:
    print(folder.name, file=calls)
if "weight-decay" in folder.name:
    sys.exit("no such luck")
args = json.loads((here / "args.json").read_text())
at = sys.argv.index("--variant")
args |= json.loads((here / "variants.json").read_text())[sys.argv[at + 2]] | {"seed": int(values["--seed"])}
(folder / "args.json").write_text(json.dumps(args))
(folder / "metrics.json").write_text((here / "metrics.json").read_text())
"""
METRICS = {
    "test_accuracy": 50.0, "test_images": 10_000, "per_class_accuracy": {}, "confusion_matrix": [],
    "validation_accuracy": 51.0, "train_accuracy": 52.0, "parameters": 1, "epochs": 5, "seed": 0,
    "train_images": 45_000, "train_seconds": 60.0, "images_per_second": 1.0, "processes": 1, "mixed_precision": "bf16",
    "device": "a computer",
    "threads": 1, "device_memory_bytes": None, "host_memory_bytes": 1, "versions": {}, "git_commit": None,
}  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of an ablation whose runs take no time."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    variants = {
        variant.name: {
            "model": variant.model,
            "model_kwargs": variant.kwargs,
            "settings": recipes.as_settings(recipes.of_length(variant.recipe, 5)),
        }
        for variant in ablation.variants("improved_resnet18", "cifar10")
    }
    (tmp_path / "variants.json").write_text(json.dumps(variants))
    (tmp_path / "args.json").write_text(json.dumps({"dataset": "cifar10", "recipe": "paper", "class_names": []}))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    monkeypatch.setattr(models, "PROJECT", tmp_path / "repository")
    words = ["--model", "improved_resnet18", "--dataset", "cifar10", "--epochs", "5"]
    return [*words, "--runs-dir", str(tmp_path / "runs"), "--launcher", f"{sys.executable} {stub}"]


def test_what_is_done_is_recorded_and_not_done_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = [*command, "--variants", "vanilla", "vanilla+weight-decay", "improved-stem"]
    assert ablate.main(few) == 1  # one failed
    file = tmp_path / "repository/docs/report/ablation/improved_resnet18.cifar10.5-epochs.json"
    found = records.read(Ablation, file)
    assert [run.variant for run in found.runs] == ["vanilla", "improved-stem"]
    assert found.runs[1].model_kwargs == {"stem_type": "", "stem_width": 64}
    assert "weight-decay.5-epochs.seed0 FAILED" in capsys.readouterr().out
    for folder in (tmp_path / "runs").iterdir():
        if folder.is_dir() and "weight" not in folder.name:
            (folder / "metrics.json").unlink()  # the results outlive the runs
    assert ablate.main([*command, "--variants", "vanilla", "improved-stem", "--seeds", "0", "1"]) == 0
    assert "2 of 4 runs are recorded already" in capsys.readouterr().out
    assert [(run.variant, run.seed) for run in records.read(Ablation, file).runs] == [
        ("vanilla", 0), ("vanilla", 1), ("improved-stem", 0), ("improved-stem", 1),
    ]  # fmt: skip
    assert (tmp_path / "calls").read_text().count("vanilla.5-epochs.seed0") == 1


def test_results_of_another_recipe_are_measured_again(command: list[str], tmp_path: Path) -> None:
    assert ablate.main([*command, "--variants", "improved"]) == 0
    file = tmp_path / "repository/docs/report/ablation/improved_resnet18.cifar10.5-epochs.json"
    contents = json.loads(file.read_text())
    contents["runs"][0]["settings"]["milestones"] = [5, 27]
    file.write_text(json.dumps(contents))
    results = records.read(Ablation, file)
    improved = ablation.variant("improved_resnet18", "cifar10", IMPROVED)
    assert not ablation.is_done(results, improved, 0)


def test_part_of_the_images_is_not_for_the_report(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"train_images": 1800}))
    assert ablate.main([*command, "--variants", "vanilla"]) == 0
    assert not (tmp_path / "repository").exists()
    assert (tmp_path / "runs/improved_resnet18.cifar10.5-epochs.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "resnet18"], "--model 'resnet18': valid are"),
        (["--variants", "vanilla", "stem"], "--variant 'stem': valid are vanilla, improved"),
    ],
)
def test_mistakes_are_one_line(command: list[str], words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert ablate.main([*command, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.slow
def test_real_runs_on_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PROJECT", tmp_path / "repository")
    words = ["--model", "improved_resnet18", "--dataset", "cifar10", "--epochs", "1", "--runs-dir", str(tmp_path)]
    words += ["--variants", "vanilla+initialisation", "improved-stem", "--", "--data-dir", str(SAMPLES)]
    assert ablate.main(words) == 0
    found = records.read(Ablation, tmp_path / "improved_resnet18.cifar10.1-epochs.json")
    assert [run.variant for run in found.runs] == ["vanilla+initialisation", "improved-stem"]
    assert found.runs[1].settings["milestones"] == pytest.approx([1.1, 1.54, 1.8, 1.94])


def results(accuracies: dict[str, list[float]], test_images: int = 10_000) -> Ablation:
    """Return results with these test accuracies, in percent: of a seed each."""
    common: dict[str, Any] = {
        "model": "", "model_kwargs": {}, "settings": {}, "train_accuracy": 0.0, "validation_accuracy": 0.0,
        "train_images": 45_000, "test_images": test_images, "train_seconds": 1.0, "device": "a computer", "threads": 1,
        "mixed_precision": "bf16", "git_commit": None,
    }  # fmt: skip
    runs = [
        AblationRun(variant=name, seed=seed, test_accuracy=value, **common)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Ablation(model="improved_googlenet", dataset="mnist", epochs=10, runs=runs)


ALL = {
    "vanilla": [80.0], "improved": [90.0], "vanilla+stem": [84.0], "vanilla+weight-decay": [80.1],
    "vanilla+smoothing": [80.0], "vanilla+schedule": [83.0], "vanilla+geometry": [77.0], "improved-stem": [88.0],
    "improved-weight-decay": [90.0], "improved-smoothing": [89.9], "improved-schedule": [85.0],
    "improved-geometry": [92.0],
}  # fmt: skip


def test_the_table_and_its_words() -> None:
    head, none, stem, *_ = ablation_report.table(results(ALL))
    assert none[1:] == ["80.00", "-", "90.00", "-"]
    assert stem == ["three 3x3 convolutions as stem", "84.00", "+4.00", "88.00", "-2.00"]
    assert len(head) == 5
    assert ablation_report.findings(results(ALL)) == [
        "All changes together bring +10.00 points, from 80.00 to 90.00 %.",
        "Added alone, these help: three 3x3 convolutions as stem (+4.00) and rate 0.01 with milestones (+3.00).",
        "Added alone, these harm: geometric augmentation (-3.00).",
        "Added alone, these are within noise: weight decay 4e-5 (+0.10) and label smoothing 0.1 (+0.00).",
        "By what is lost without it, these help: rate 0.01 with milestones (+5.00) and three 3x3 convolutions as stem "
        "(+2.00).",
        "By what is lost without it, these harm: geometric augmentation (-2.00).",
        "By what is lost without it, these are within noise: label smoothing 0.1 (+0.10) and weight decay "
        "4e-5 (+0.00).",
        "The changes added alone sum to +4.10 points: together they bring more.",
    ]
    fewer_images = ablation_report.findings(results(ALL, test_images=100))
    assert not any("alone, these help" in line for line in fewer_images)  # 4 points are noise then


def test_what_is_missing_is_a_dash() -> None:
    part = results({"vanilla": [80.0, 82.0], "vanilla+stem": [84.0]})
    _, none, stem, decay, *_ = ablation_report.table(part)
    assert none[1:] == ["81.00 ± 1.41", "-", "-", "-"]
    assert stem[1:] == ["84.00", "+3.00", "-", "-"]
    assert decay[1:] == ["-"] * 4
    assert ablation_report.findings(part) == []
    assert ablation_report.section(part)["done"] == 2
    assert ablation_report.section(part)["plot"] is None


def test_the_plot(tmp_path: Path) -> None:
    ablation_report.write_plot(results(ALL), tmp_path)
    assert (tmp_path / "ablation-improved_googlenet-mnist.png").stat().st_size > 5000
