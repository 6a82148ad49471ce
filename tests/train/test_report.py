"""The paper's claims, and REPORT.md."""

import json
import re
from pathlib import Path

import pytest

from train import claims, models, paper, report

# By its own tables: what the text of section 5.3 says, and whether it is so.
BY_ITS_TABLES = {
    "mnist": {
        "All improved networks are more accurate than all vanilla ones": "yes: the least accurate improved one has",
        "The improved GoogLeNet is the best": "no: `improved_googlenet` and `improved_vgg16` with 99.64 %",
        "ResNet improves the most": "yes: GoogLeNet +0.14, ResNet18 +0.68, VGG16 +0.46 points",
        "The hardest class is 6, on average over the models": "no: 9, with 99.02 % over 6 models",
    },
    "cifar10": {
        "The improved networks have about 85 % on average, the vanilla ones 75 %": "no: 82.25 % and 74.89 %",
        "VGG improves by around 10 points": "no: +3.04 points",
        "GoogLeNet improves by 2.5 points only": "yes: +2.70 points",
        "ResNet improves the most": "yes: GoogLeNet +2.70, ResNet18 +16.34, VGG16 +3.04 points",
        "The hardest class is cat, on average over the models": "yes: cat, with 59.71 % over 6 models",
    },
}


@pytest.mark.parametrize("dataset", BY_ITS_TABLES)
def test_claims_by_the_papers_own_tables(dataset: str) -> None:
    found = {claim.text: claim.held_against(paper.results(dataset)) for claim in claims.of(dataset)}
    assert found.keys() == BY_ITS_TABLES[dataset].keys()
    for text, verdict in BY_ITS_TABLES[dataset].items():
        assert found[text].startswith(verdict), text


@pytest.mark.parametrize("dataset", BY_ITS_TABLES)
def test_claims_follow_the_results(dataset: str) -> None:
    """Results made to contradict the paper in everything, and others to agree in everything."""
    wrong = {name: paper.Result(50.0, {"6": 9.0, "cat": 9.0, "8": 1.0}) for name in claims.ALL}
    wrong["vanilla_vgg16"] = paper.Result(60.0, wrong["vanilla_vgg16"].per_class)
    assert all(claim.held_against(wrong).startswith("no: ") for claim in claims.of(dataset))
    accuracies, hardest = {
        "mnist": ((99.0, 98.0, 99.0, 99.9, 99.5, 99.6), "6"),
        "cifar10": ((83.5, 65.0, 76.5, 86.0, 83.0, 86.5), "cat"),
    }[dataset]
    per_class = {"8": 9.0, hardest: 1.0}
    right = {name: paper.Result(value, per_class) for name, value in zip(paper.MODELS, accuracies, strict=True)}
    assert [claim.held_against(right)[:5] for claim in claims.of(dataset)] == ["yes: "] * len(claims.of(dataset))


def test_claims_about_what_is_missing_are_open() -> None:
    part = {name: result for name, result in paper.results("cifar10").items() if "vgg16" not in name}
    found = {claim.text: claim.held_against(part) for claim in claims.of("cifar10")}
    assert found["VGG improves by around 10 points"] == found["ResNet improves the most"] == "-"
    assert found["GoogLeNet improves by 2.5 points only"] == "yes: +2.70 points"
    assert found["The hardest class is cat, on average over the models"].endswith("over 4 models")
    assert {claim.held_against({}) for claim in claims.of("cifar10")} == {"-"}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of this checkout's published models, as it is written."""
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    assert report.main([]) == 0
    return (tmp_path / "REPORT.md").read_text()


def test_report_is_that_of_the_published_models(written: str, tmp_path: Path) -> None:
    root = models.MODEL_CARDS.parent
    assert (root / "REPORT.md").read_text() == written
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", written)
    assert len(pictures) == 6
    for picture in pictures:
        assert (root / picture).stat().st_size > 5000
        assert (tmp_path / picture).stat().st_size > 5000


def test_every_cell_of_the_table_is_the_papers_and_ours(written: str) -> None:
    for dataset in paper.TITLES:
        for model in paper.MODELS:
            file = models.MODEL_CARDS / f"{model}.{dataset}" / "metrics.json"
            ours = json.loads(file.read_text())["per_class_accuracy"] if file.is_file() else {}
            for name, theirs in paper.per_class(dataset, model).items():
                (row,) = re.findall(rf"^\| {name} \|.*$", written, re.MULTILINE)
                cell = row.split(" | ")[1 + paper.MODELS.index(model)].strip("| ")
                assert cell == f"{theirs:.2f} / {ours[name]:.2f}" if ours else f"{theirs:.2f} / -"


def test_no_published_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(models, "REPOSITORY", tmp_path)
    monkeypatch.setattr(models, "MODEL_CARDS", tmp_path / "model_cards")
    assert report.main([]) == 2
    assert "no published models" in capsys.readouterr().err
