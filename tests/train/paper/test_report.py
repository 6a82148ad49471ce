"""The paper's claims, and REPORT.md."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from train import publish, records, report
from train.cards.rendering import table
from train.paper import claims, ours, paper, tables
from train.paper.figures import curves
from train.paper.figures import files as figures
from train.training import models, recipes
from zoo.catalog import DATASETS

# The claims of section 5.3, and whether they hold in the paper's own tables.
BY_ITS_TABLES = {
    "mnist": {
        "All improved networks are more accurate than all vanilla ones": "yes, within noise: the least accurate imp",
        'The improved GoogLeNet is the best, by so little that one "cannot say"': (
            "no, within noise: `improved_googlenet` and `improved_vgg16` with 99.64 %"
        ),
        "ResNet improves the most": "yes, within noise: GoogLeNet +0.14, ResNet18 +0.68, VGG16 +0.46 points",
        "The hardest class is 6, on average over the models": "no, within noise: 9, with 99.02 % over 6 models",
    },
    "cifar10": {
        "The improved networks have about 85 % on average": "no: 82.25 %",
        "The vanilla networks have about 75 % on average": "yes: 74.89 %",
        "The improved networks are 10 points better on average (85 against 75 %)": "no: +7.36 points",
        "VGG improves by around 10 points": "no: +3.04 points",
        "GoogLeNet improves by 2.5 points only": "yes, within noise: +2.70 points",
        "ResNet improves the most": "yes: GoogLeNet +2.70, ResNet18 +16.34, VGG16 +3.04 points",
        "The hardest class is cat, on average over the models": "yes: cat, with 59.71 % over 6 models",
    },
}

# Of a run, beside what a test states.
METRICS = {
    "confusion_matrix": [[1]], "train_accuracy": 90.0, "parameters": 1, "epochs": 50, "images_per_second": 1.0,
    "processes": 1, "threads": 1, "device_memory_bytes": None, "host_memory_bytes": 1, "versions": {},
    "git_commit": None,
}  # fmt: skip
SETTINGS = recipes.as_settings(recipes.get("paper", "improved_vgg16", "cifar10"))
VANILLA = recipes.as_settings(recipes.get("paper", "vanilla_vgg16", "cifar10"))
# As it was before the vanilla networks had a size in it.
VANILLA_WITHOUT_SIZE = {name: value for name, value in VANILLA.items() if name != "side"}


@pytest.mark.parametrize("dataset", BY_ITS_TABLES)
def test_claims_by_the_papers_own_tables(dataset: str) -> None:
    found = {claim.text: claim.verdict(paper.results(dataset)) for claim in claims.of(dataset)}
    assert found.keys() == BY_ITS_TABLES[dataset].keys()
    for text, verdict in BY_ITS_TABLES[dataset].items():
        assert found[text].startswith(verdict), text


@pytest.mark.parametrize("dataset", BY_ITS_TABLES)
def test_claims_follow_the_results(dataset: str) -> None:
    """Results made to contradict the paper in everything, and others to agree in everything."""
    wrong = {name: paper.Result(50.0, {"6": 60.0, "cat": 60.0, "8": 1.0}) for name in claims.ALL}
    wrong["improved_vgg16"] = paper.Result(53.0, wrong["vanilla_vgg16"].per_class)
    wrong["vanilla_vgg16"] = paper.Result(49.0, wrong["vanilla_vgg16"].per_class)
    wrong["vanilla_googlenet"] = paper.Result(60.0, wrong["vanilla_vgg16"].per_class)
    assert [claim.verdict(wrong)[:4] for claim in claims.of(dataset)] == ["no: "] * len(claims.of(dataset))
    accuracies, hardest = {
        "mnist": ((98.0, 97.0, 98.0, 99.9, 99.5, 99.6), "6"),
        "cifar10": ((83.5, 65.0, 76.5, 86.0, 83.0, 86.5), "cat"),
    }[dataset]
    per_class = {"8": 9.0, hardest: 1.0}
    right = {name: paper.Result(value, per_class) for name, value in zip(paper.MODELS, accuracies, strict=True)}
    assert {claim.verdict(right).split(":")[0].split(",")[0] for claim in claims.of(dataset)} == {"yes"}


@pytest.mark.parametrize(
    ("improved", "verdict"),
    [
        (99.75, "yes: "),
        (99.62, "yes, within noise: "),
        (99.50, "no, within noise: "),
        (99.40, "no, within noise: "),
        (99.20, "no: "),
    ],
)
def test_what_the_test_images_leave_open_is_within_noise(improved: float, verdict: str) -> None:
    """Two standard errors of 10,000 images are 0.17 to 0.23 points here: sqrt(p (1 - p) / n) of both networks."""
    above, *_ = claims.of("mnist")
    found = {name: paper.Result(improved if name.startswith("improved") else 99.5, {}) for name in claims.ALL}
    assert above.verdict(found).startswith(verdict)


def test_an_accuracy_is_as_uncertain_as_the_images_behind_it() -> None:
    """P (1 - p) / n: of a network all images, of a class its own, of a difference both, of a mean a third of each."""
    results = {name: paper.Result(80.0, {"6": 80.0, "cat": 80.0, "8": 90.0}) for name in claims.ALL}
    network = 80 * 20 / 10_000
    classes = (80 * 20 + 90 * 10) / (10_000 / 3)
    improve, about_85, gap, gains = claims.of("mnist")[2], *(claims.of("cifar10")[i] for i in (0, 2, 3))
    assert improve.finding(results).variance == pytest.approx(4 * network)
    assert about_85.finding(results).variance == pytest.approx(network / 3)
    assert gap.finding(results).variance == pytest.approx(2 * network / 3)
    assert gains.finding(results).variance == pytest.approx(2 * network)
    two = {name: paper.Result(80.0, {"6": 80.0, "8": 90.0, "9": 95.0}) for name in claims.ALL}
    assert claims.of("mnist")[3].finding(two).variance == pytest.approx(classes)


def test_accuracy_on_all_images_of_mnist_follows_from_the_classes() -> None:
    """Its classes differ in size; each of the paper's accuracies is that of a whole number of images."""
    found = [paper.of_all_images("mnist", model) for model in paper.MODELS]
    assert found == pytest.approx([99.51, 98.96, 99.19, 99.65, 99.63, 99.65])
    for dataset, model in (("mnist", "improved_vgg16"), ("cifar10", "vanilla_vgg16")):
        assert paper.of_all_images(dataset, model) == pytest.approx(paper.accuracy(dataset, model), abs=0.02)


def test_losses_of_the_papers_logs_are_of_a_batch() -> None:
    """Beside the average that is divided by 128 once too often, the logs print the loss of single batches: 0.94 to 1.04
    in epoch 4 of ResNet18, where the average is 0.0078.
    """
    train, validation = paper.mean_losses("cifar10", paper.LOGS["cifar10"]["vanilla_resnet18"][0])
    assert (train, validation) == pytest.approx((0.997, 1.15), abs=0.001)


def test_claims_about_what_is_missing_are_open() -> None:
    part = {name: result for name, result in paper.results("cifar10").items() if "vgg16" not in name}
    found = {claim.text: claim.verdict(part) for claim in claims.of("cifar10")}
    assert found["VGG improves by around 10 points"] == found["ResNet improves the most"] == "-"
    assert found["GoogLeNet improves by 2.5 points only"] == "yes, within noise: +2.70 points"
    assert found["The hardest class is cat, on average over the models"] == "-"
    assert {claim.verdict({}) for claim in claims.of("cifar10")} == {"-"}


def test_what_is_there_may_refute_a_claim_but_not_prove_it() -> None:
    everything = paper.results("mnist")
    above, best, *_ = (claim for claim in claims.of("mnist"))
    part = {name: everything[name] for name in ("improved_googlenet", "vanilla_resnet18")}
    assert above.verdict(part) == best.verdict(part) == "-"
    part["vanilla_vgg16"] = paper.Result(99.9, {})
    assert above.verdict(part).startswith("no: the least accurate improved one has 99.64 %")
    assert best.verdict(part).startswith("no: `vanilla_vgg16` with 99.90 %")
    del part["improved_googlenet"]
    assert above.verdict(part) == best.verdict(part) == "-"


def test_other_models_and_datasets_are_not_the_reports(tmp_path: Path) -> None:
    for name, changes in (("own", {"dataset": "insects"}), ("other", {"model": "resnet18"}), ("ours", {})):
        (tmp_path / name).mkdir()
        metrics = json.loads((models.card("improved_vgg16.mnist") / "metrics.json").read_text()) | changes
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        (tmp_path / name / "log.csv").write_text("epoch\n1\n")
    assert list(ours.published(sorted(tmp_path.iterdir()))) == [("mnist", "improved_vgg16")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the report of this checkout's published models and reproductions, written again."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("paper", "earlier", "ablation"):
        if (ours.report_folder() / name).is_dir():
            shutil.copytree(ours.report_folder() / name, folder / "docs" / "report" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "PROJECT", folder)
        assert report.main([]) == 0
    return folder


@pytest.fixture
def written(folder: Path) -> str:
    return (folder / "REPORT.md").read_text()


def test_report_is_that_of_the_published_models(written: str, folder: Path) -> None:
    root = models.MODEL_CARDS.parent
    assert (root / "REPORT.md").read_text() == written
    plots = re.findall(r"!\[.*?\]\((.*?)\)", written)
    of_corruptions = 2 * len({card.suffix for card in models.cards() if (card / "robustness.json").is_file()})
    of_ablations = sum(map(written.count, ("![What each change gains alone]", "![Accuracy by probability, with and")))
    drawings, of_datasets = 5, 2 * 5
    reproduced = 2 * len({dataset for dataset, _ in ours.reproductions()})
    assert len(plots) == drawings + of_datasets + reproduced + of_corruptions + of_ablations
    for plot in plots:
        assert (root / plot).stat().st_size > 4000
        # Text, and so the same on every machine.
        if plot.endswith(".svg"):
            assert (folder / plot).read_text() == (root / plot).read_text()
        assert (folder / plot).stat().st_size > 4000


def draw_alone(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Of the plots over the epochs, draw these alone: each takes as long as the report's text."""
    grid = curves.grid
    monkeypatch.setattr(curves, "grid", lambda *args: grid(*args) if args[-1].name in names else None)


def test_writing_the_report_again_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PROJECT", folder)
    draw_alone(monkeypatch, "mnist-loss.png", "mnist-paper-accuracy.png")
    monkeypatch.setattr(figures, "DATASETS", {"mnist": DATASETS["mnist"]})  # the same plots as CIFAR-10's
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert report.main([]) == 0
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


TEACHER = records.TeacherRecord(
    name="a_net.mnist", published=True, safetensors_sha256="ab", test_accuracy=99.0, git_commit=None, share=0.9,
    temperature=2.0,
)  # fmt: skip


def test_costs_are_those_of_all_runs_that_led_to_the_weights() -> None:
    ((key, entry), *_) = ours.published(models.cards()).items()
    first = records.Earlier(
        name="x", epochs=5, train_seconds=600.0, test_accuracy=80.0, git_commit=None, safetensors_sha256="ab"
    )
    earlier = [first, dataclasses.replace(first, epochs=7, train_seconds=1200.0)]
    metrics = dataclasses.replace(entry.metrics, epochs=9, train_seconds=60.0, earlier=earlier, teacher=None)
    *_, row = tables.costs({key: dataclasses.replace(entry, metrics=metrics)})
    assert row[2:5] == ["`fast`", "5 + 7 + 9", "31"]
    taught = dataclasses.replace(metrics, teacher=TEACHER)
    *_, row = tables.costs({key: dataclasses.replace(entry, metrics=taught)})
    assert row[2:4] == ["`fast` with teacher `a_net.mnist`", "5 + 7 + 9"]


def test_every_cell_of_the_tables_is_the_papers_and_ours(written: str) -> None:
    first, _, second = written.partition("## Reproducing the paper's recipe")
    repeats = ours.reproductions()
    for dataset in DATASETS:
        again = [model for model in paper.MODELS if (dataset, model) in repeats]
        for model in paper.MODELS:
            file = models.MODEL_CARDS / f"{model}.{dataset}" / "metrics.json"
            mine = json.loads(file.read_text())["per_class_accuracy"] if file.is_file() else {}
            for name, theirs in paper.per_class(dataset, model).items():
                (row,) = re.findall(rf"^\| {name} \|.*$", first, re.MULTILINE)
                cell = row.split(" | ")[1 + paper.MODELS.index(model)].strip("| ")
                assert cell == f"{theirs:.2f} / " + (f"{mine[name]:.2f}" if mine else "-")
                if model in again:
                    (row,) = re.findall(rf"^\| {name} \|.*$", second, re.MULTILINE)
                    cell = row.split(" | ")[1 + again.index(model)].strip("| ")
                    assert cell == f"{theirs:.2f} / {repeats[dataset, model].metrics.per_class_accuracy[name]:.2f}"


def test_reproductions_decide_the_claims_that_they_can() -> None:
    ((_, entry), *_) = ours.published(models.cards()).items()
    runs = {
        model: ours.Entry(
            dataclasses.replace(entry.metrics, per_class_accuracy=dict.fromkeys(paper.TABLES["cifar10"], accuracy)), []
        )
        for model, accuracy in (("vanilla_vgg16", 70.0), ("improved_vgg16", 90.0))
    }
    rows = table(tables.verdicts("cifar10", {}, runs)).splitlines()
    assert rows[0] == "| Claim | In the paper's own table | In our results | In our runs of the paper's recipe |"
    assert "| VGG improves by around 10 points | no: +3.04 points | - | no: +20.00 points |" in rows
    assert sum(row.endswith("| - |") for row in rows[2:]) == len(rows) - 3
    assert not any("our runs" in cell for cell in tables.verdicts("cifar10", {}, {})[0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the paper's recipe, complete but for its weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    args: dict[str, Any] = {
        "model": "improved_vgg16",
        "dataset": "cifar10",
        "recipe": "paper",
        "pretrained": None,
        "overfit": None,
    }
    args |= {"model_kwargs": {}, "seed": 0, "class_names": list(paper.TABLES["cifar10"])}
    per_class = paper.per_class("cifar10", "improved_vgg16")
    metrics = METRICS | {
        "per_class_accuracy": per_class,
        "test_accuracy": 81.25,
        "validation_accuracy": 82.5,
        "train_seconds": 3000.0,
        "seed": 0,
    }
    metrics |= {"train_images": 45_000, "test_images": 10_000, "device": "a computer", "mixed_precision": "bf16"}
    (folder / "args.json").write_text(json.dumps(args | {"settings": SETTINGS}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    columns = ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
    rows = [",".join(columns), *(f"{epoch},1,{1 - epoch / 100},{epoch},{epoch}" for epoch in range(1, 51))]
    (folder / "log.csv").write_text("\n".join(rows))
    return folder


def test_a_run_of_the_papers_recipe_is_added(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    for name in ("_reliability", "_robustness"):  # it adds nothing to these plots
        monkeypatch.setattr(figures, name, lambda *_: None)
    draw_alone(monkeypatch, "cifar10-paper-accuracy.png")
    monkeypatch.setattr(figures, "DATASETS", {"cifar10": DATASETS["cifar10"]})
    assert report.main([str(run)]) == 0
    text = (tmp_path / "REPORT.md").read_text()
    row = "| Improved VGG16, CIFAR-10 | 79.02 / 81.25 | 82.50 | 0.50 (50) | 0.50 | 50 | 0 | a computer, bf16 "
    assert f"{row}mixed precision |" in text.splitlines()
    assert (
        "| Improved VGG16, CIFAR-10 | 45 | 88.62 / 45.00 | 86.24 / 45.00 | 0.78 / 1.00 | 0.86 / - | 0.55 |"
        in text.splitlines()
    )
    assert "| cat | 50.70 / 50.70 |" in text.splitlines()
    assert "The logs of Improved VGG16, CIFAR-10 are older and have it with plain labels alone: a dash." in text
    assert "docs/report/cifar10-paper-loss.png" in text
    assert (tmp_path / "docs/report/cifar10-paper-accuracy.png").stat().st_size > 5000
    assert "mnist-paper" not in text
    assert (
        "1 of 12 runs are done. Still to be run: GoogLeNet, ResNet18, VGG16, Improved GoogLeNet, Improved ResNet18 and "
        "Improved VGG16 on MNIST; GoogLeNet, ResNet18, VGG16, Improved GoogLeNet and Improved ResNet18 on CIFAR-10 (`"
    ) in text
    assert "In our runs of the paper's recipe" not in text  # one network alone decides nothing
    assert len(ours.reproductions()["cifar10", "improved_vgg16"].log) == 50


def test_logs_with_the_smoothed_loss_are_compared_with_the_papers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the paper computes it for the networks that it trains with label smoothing; older logs have a dash."""
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    ours.add_reproduction(run)
    assert tables.same_epochs(ours.reproductions())[-1][-2:] == ["0.86 / -", "0.55"]
    assert tables.without_smoothed_loss(ours.reproductions()) == ["Improved VGG16, CIFAR-10"]
    head, *rows = (run / "log.csv").read_text().splitlines()
    smoothed = [f"{head},validation_loss_smoothed", *(f"{row},0.875" for row in rows)]
    (run / "log.csv").write_text("\n".join(smoothed))
    ours.add_reproduction(run)
    assert tables.same_epochs(ours.reproductions())[-1][-2:] == ["0.86 / 0.88", "0.55"]
    assert tables.without_smoothed_loss(ours.reproductions()) == []


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("args.json", {"recipe": "fast"}, "its recipe is 'fast'"),
        ("args.json", {"model": "resnet18"}, "its model is 'resnet18'"),
        ("args.json", {"pretrained": "published"}, "it was trained with --pretrained published"),
        ("args.json", {"teacher": vars(TEACHER)}, "it was trained with --teacher a_net.mnist"),
        ("args.json", {"overfit": 32}, "it was trained with --overfit 32"),
        ("args.json", {"model_kwargs": {"drop_rate": 0.0}}, "it was trained with --model-kwargs {'drop_rate': 0.0}"),
        ("log.csv", {}, "its log has 1 epochs, not 50"),
        ("args.json", {"settings": SETTINGS | {"epochs": 3}}, "its epochs is 3, the paper's 50"),
        (
            "args.json",
            {"model": "vanilla_vgg16", "settings": VANILLA_WITHOUT_SIZE},
            "its side is None, the paper's 64",
        ),
        ("metrics.json", {"train_images": 2000}, "its train_images are 2,000, not 45,000"),
        ("metrics.json", {"test_images": 1000}, "its test_images are 1,000, not 10,000"),
    ],
)
def test_runs_that_differ_from_the_papers_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, file: str, changes: dict,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    if file == "log.csv":
        (run / file).write_text("\n".join((run / file).read_text().splitlines()[:2]))
    else:
        (run / file).write_text(json.dumps(json.loads((run / file).read_text()) | changes))
    assert report.main([str(run)]) == 2
    assert words in capsys.readouterr().err
    (run / file).write_text("{")
    if file != "log.csv":
        assert report.main([str(run)]) == 2
        assert f"{file} is damaged" in capsys.readouterr().err
    (run / file).unlink()
    assert report.main([str(run)]) == 2
    assert f"is no finished run: it has no {file}" in capsys.readouterr().err
    assert ours.reproductions() == {}


def test_a_run_of_the_papers_recipe_does_not_replace_published_weights(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def read(folder: Path) -> tuple[None, records.RunDescription]:
        values = {"seed": 0, "class_names": [], **json.loads((folder / "args.json").read_text())}
        return None, records.parse(records.RunDescription, values, folder / "args.json")

    monkeypatch.setattr(models, "load_run", read)
    assert publish.main([str(run)]) == 2
    assert f"python train/report.py {run}" in capsys.readouterr().err


def test_no_published_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    monkeypatch.setattr(models, "MODEL_CARDS", tmp_path / "model_cards")
    assert report.main([]) == 2
    assert "no published models" in capsys.readouterr().err
