"""The report as a map of the paper: no item is missing, each link leads somewhere, states follow from what exists."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from train import records
from train.paper import ablation, claims, findings, items, losses, ours, paper
from train.paper.items import Evidence, Item
from train.records import AblationRun
from train.training import models
from zoo.catalog import DATASETS

ROOT = models.MODEL_CARDS.parent
REPORT = (ROOT / "REPORT.md").read_text()


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(ours.published(models.cards()), ours.reproductions(), [])


def flat(found: Evidence) -> list[Item]:
    return [item for listed in items.every(found).values() for item in listed]


def state(found: Evidence, place: str, what: str = "") -> str:
    (item,) = (item for item in flat(found) if item.place == place and what in item.what)
    return item.state


def test_no_item_of_the_paper_is_missing(evidence: Evidence) -> None:
    listed = flat(evidence)
    places = [item.place for item in listed]
    numbered = [f"Table {i}" for i in range(1, 4)] + [f"Figure {i}" for i in range(1, 15)]
    assert [place for place in places if place.startswith(("Table", "Figure"))] == numbered
    assert {place for place in places if place[0].isdigit()} == {"4", "5.1", "5.2", "5.3"}
    for name, dataset in DATASETS.items():
        for text in [*(claim.text for claim in claims.of(name)), *(claim.text for claim in losses.of(name))]:
            assert f"{text} ({dataset.title})" in {item.what for item in listed}
    # What section 4 says of each network and of training.
    told = " ".join(item.what for item in listed if item.place == "4")
    for words in (
        "weight decay",
        "label smoothing",
        "BatchNorm",
        "pool",
        "initialisation",
        "dropout",
        "stem",
        "Inception",
    ):
        assert words in told
    assert len({(item.place, item.what) for item in listed}) == len(listed)


def test_each_row_of_the_report_has_a_link_that_leads_somewhere(evidence: Evidence) -> None:
    evidence = dataclasses.replace(evidence, ablations=ablation.published())
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", REPORT, re.MULTILINE)
    }
    for heading, listed in items.every(evidence).items():
        assert f"\n### {heading}\n" in REPORT
        for item in listed:
            assert item.links, item
            for text, target in item.links:
                file, _, anchor = target.partition("#")
                assert not file or (ROOT / file).exists(), target
                assert not anchor or anchor in anchors, target
                assert f"[{text}]({target})" in REPORT


def test_every_state_begins_with_a_word_that_says_what_it_is(evidence: Evidence) -> None:
    for item in flat(evidence):
        assert re.match(r"shown\b|in part: |not here: |in the code\b|checked\b", item.state), item


def test_plots_of_the_report_are_light_enough_for_git() -> None:
    shown = re.findall(r"!\[.*?\]\((docs/report/.*?)\)", REPORT)
    assert {Path(name).name for name in shown} == {
        file.name for file in (ROOT / "docs/report").iterdir() if file.suffix in (".png", ".svg")
    }
    for name in shown:
        limit = 100_000 if name.endswith(".svg") else 160_000
        assert 4_000 < (ROOT / name).stat().st_size < limit, name


def test_states_follow_the_runs(evidence: Evidence) -> None:
    of_dataset = {dataset: entry for (dataset, _), entry in evidence.reproduced.items()}
    everything = {(dataset, model): of_dataset[dataset] for dataset, model in ours.ALL}
    full = dataclasses.replace(evidence, reproduced=everything)
    for place in ("Table 2", "Table 3", *(f"Figure {i}" for i in range(5, 15))):
        assert state(full, place) == "shown"
    part = dataclasses.replace(evidence, reproduced={("mnist", "improved_vgg16"): of_dataset["mnist"]})
    assert state(part, "Table 2") == "in part: 6 of 6 networks with our recipe, 1 of 6 with the paper's"
    assert state(part, "Figure 14") == "in part: 1 of 3 runs are done"
    assert state(part, "Figure 11") == "not here: 0 of 3 runs are done"
    nothing = dataclasses.replace(evidence, published={}, reproduced={})
    assert state(nothing, "Figure 9") == "not here: no network is trained"
    assert state(nothing, "4", "over-confident") == "not here: no network is calibrated"
    verdict = state(nothing, "5.3", "The hardest class is cat")
    assert verdict == "checked: its own numbers: yes; ours: open; its recipe: open"


def test_states_follow_the_networks(evidence: Evidence) -> None:
    assert state(evidence, "Figure 2").endswith("the third branch is 3x3, not 5x5")
    assert state(evidence, "4", "BatchNorm after each") == "in the code: after 13 of 13"
    swapped = {
        name: dataclasses.replace(evidence.networks[f"vanilla_{name.partition('_')[2]}"], name=name)
        for name in paper.MODELS
    }
    other = dataclasses.replace(evidence, networks=swapped)
    assert state(other, "4", "BatchNorm after each") == "in the code: after 0 of 13"
    assert "1 convolutions of 7x7" in state(other, "4", "improved ResNet: a stem")
    assert state(other, "5.3", "far fewer parameters") == "in the code: 0 % fewer"


def test_states_follow_the_ablation(evidence: Evidence) -> None:
    assert state(evidence, "4", "dropout").startswith("not here: ")
    assert state(evidence, "5.3", "which change").startswith("not here: ")
    run: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(AblationRun)}
    runs = [AblationRun(**run | {"variant": name}) for name in ("vanilla", "improved-dropout")]
    done = records.Ablation(model="improved_resnet18", dataset="cifar10", epochs=5, runs=runs)
    found = dataclasses.replace(evidence, ablations=[done])
    assert state(found, "4", "dropout") == "checked: on Improved ResNet18, CIFAR-10"
    assert state(found, "4", "overfitting").startswith("not here: ")
    every = len(ablation.variants("improved_resnet18", "cifar10"))
    assert state(found, "5.3", "which change") == f"in part: 2 of {every} variants of Improved ResNet18, CIFAR-10"


def test_the_report_opens_with_three_sentences_by_the_numbers(evidence: Evidence) -> None:
    said = findings.sentences(evidence.published, evidence.reproduced)
    assert REPORT.split("\n\n")[1] == " ".join(said)
    assert len(said) == 3
    published = findings.differences(evidence.published)
    for (dataset, model), difference in published.items():
        card = json.loads((models.MODEL_CARDS / f"{model}.{dataset}" / "metrics.json").read_text())
        mean = sum(card["per_class_accuracy"].values()) / 10
        assert difference == pytest.approx(mean - (paper.accuracy(dataset, model) or 0), abs=0.006)


def test_the_sentences_change_with_the_numbers(evidence: Evidence) -> None:
    def at(accuracies: dict[tuple[str, str], float]) -> dict[tuple[str, str], Any]:
        (_, entry), *_ = evidence.published.items()
        return {
            (dataset, model): dataclasses.replace(
                entry,
                metrics=dataclasses.replace(
                    entry.metrics, per_class_accuracy=dict.fromkeys(paper.TABLES[dataset], accuracy)
                ),
            )
            for (dataset, model), accuracy in accuracies.items()
        }

    found = at({("cifar10", "improved_vgg16"): 70.02, ("mnist", "improved_vgg16"): 99.64})
    accuracy, about_claims, repeated = findings.sentences(found, found)
    assert accuracy == (
        "Of our 2 published models, 1 is as accurate and 1 is less accurate: on average +0.00 points on MNIST "
        "(+0.00 to +0.00) and -9.00 points on CIFAR-10 (-9.00 to -9.00)."
    )
    assert about_claims == (
        "Of the paper's 11 claims about accuracy, 6 hold (3 within noise) in its own tables and none holds in our "
        "results; our runs of its recipe decide none so far."
    )
    assert repeated == (
        "Repeated with the paper's own recipe, 2 of its 12 runs end on average 4.50 points from its accuracy, at most "
        "9.00 points below it (Improved VGG16, CIFAR-10)."
    )
    above = at({("cifar10", "vanilla_googlenet"): 85.15, ("cifar10", "improved_googlenet"): 87.65})
    _, about_claims, repeated = findings.sentences(found, above)
    assert "our runs of its recipe decide 1 so far, of which 1 holds (1 within noise)." in about_claims
    assert "at most 2.00 points above it (GoogLeNet, CIFAR-10)." in repeated
    assert findings.sentences(found, {})[2].startswith("None of the paper's 12 runs")
