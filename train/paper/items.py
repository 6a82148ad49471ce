"""The paper item by item: its tables, its figures, the claims of sections 4 and 5; where each is here, and its state.

A state follows from what exists: the code of the networks, the published models, the runs of recipe `paper` and the
results of the ablation. It begins with "shown", "in part", "not here", or says where a claim was checked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from train.paper import ablation, claims, losses, ours, paper, section4, tables
from train.paper.architecture import layers
from train.paper.architecture.layers import Network
from train.paper.ours import Entries
from train.records import Ablation, CardMetrics, PaperRun
from train.training import recipes
from zoo.catalog import DATASETS

Found = TypeVar("Found")

# The networks whose logs the paper's Figures 11 to 14 show.
LOGS = {11: ("cifar10", claims.VANILLA), 12: ("mnist", claims.VANILLA), 13: ("cifar10", claims.IMPROVED),
        14: ("mnist", claims.IMPROVED)}  # fmt: skip
# The numbers of the paper's tables and figures, by dataset.
TABLE = {"mnist": 2, "cifar10": 3}
IMAGES_FIGURE = {"mnist": 3, "cifar10": 4}
LOSS_FIGURE = {"mnist": 5, "cifar10": 6}
ACCURACY_FIGURE = {"mnist": 7, "cifar10": 8}
HARDEST_FIGURE = {"mnist": 9, "cifar10": 10}
ABLATE = "python train/ablate.py"


@dataclass(frozen=True)
class Item:
    """Something in the paper.

    Attributes:
        place: "Table 2", "Figure 14", "5.3" for a section.
        what: in a few words.
        links: text and target of each, relative to REPORT.md.
        state: see the module.
    """

    place: str
    what: str
    links: tuple[tuple[str, str], ...]
    state: str


@dataclass(frozen=True)
class Evidence:
    """What there is to show."""

    published: Entries[CardMetrics]
    reproduced: Entries[PaperRun]
    ablations: Sequence[Ablation]
    networks: Mapping[str, Network] = field(
        default_factory=lambda: {name: layers.network(name, layers.SIDE) for name in paper.MODELS}
    )


def every(found: Evidence) -> dict[str, list[Item]]:
    """List all items in the paper's order, by the heading that they are under."""
    return {
        "Its tables and figures": _tables_and_figures(found),
        "Its section 4, improved models": _section_4(found),
        "Its section 5, experiments": _section_5(found),
    }


def table(items: Sequence[Item]) -> tables.Table:
    """Return items as a table."""
    rows = [
        [f"{item.place}: {item.what}", item.state, ", ".join(f"[{text}]({target})" for text, target in item.links)]
        for item in items
    ]
    return [["In the paper", "State", "Here"], *rows]


def anchor(heading: str, text: str = "") -> tuple[str, str]:
    """Return a link to a heading of the report, by the fragment that GitHub gives it; its text is the heading's."""
    return text or heading, "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


AGAIN = anchor("Reproducing the paper's recipe", "its recipe")
DISAGREE = anchor("Where the paper's text and tables disagree", "text and tables")
RECIPES = ("recipes.py", "train/training/recipes.py")


def _tables_and_figures(found: Evidence) -> list[Item]:
    names = {name: dataset.title for name, dataset in DATASETS.items()}
    module = layers.blocks(found.networks["vanilla_googlenet"])[0]
    third = module.branches[2][-1].parts[0].partition(" ")[0]
    items = {
        "Table 1": ("the configurations of VGG", [anchor("VGG16")],
                    "shown, with a difference: configuration D alone, the trained one, with ten classes"),
        "Figure 1": ("the residual block", [anchor("The residual block")], "shown"),
        "Figure 2": ("the Inception module", [anchor("The Inception module")],
                     "shown" if third == "5x5" else f"shown, with a difference: the third branch is {third}, not 5x5"),
    }  # fmt: skip
    for dataset, number in IMAGES_FIGURE.items():
        items[f"Figure {number}"] = (f"images of {names[dataset]}", [anchor("Images")], "shown, and augmented too")
    for dataset, title in names.items():
        own = sum(name == dataset for name, _ in found.published)
        again = sum(name == dataset for name, _ in found.reproduced)
        classes = [anchor(f"Accuracy of each class on {title}", "classes")]
        curves = [anchor(f"Loss and accuracy over the epochs on {title}", "curves")]
        for place, what, links in (
            (f"Table {TABLE[dataset]}", f"accuracy of each class on {title}", classes),
            (f"Figure {LOSS_FIGURE[dataset]}", f"loss on {title}", curves),
            (f"Figure {ACCURACY_FIGURE[dataset]}", f"accuracy on {title}", curves),
            (f"Figure {HARDEST_FIGURE[dataset]}", f"the hardest class of {title}", classes),
        ):
            items[place] = (what, [*links, AGAIN] if again else links, _of_networks(own, again))
    for number, (dataset, models) in LOGS.items():
        kind = "vanilla" if models == claims.VANILLA else "improved"
        done = sum((dataset, model) in found.reproduced for model in models)
        state = "shown" if done == len(models) else f"in part: {done} of {len(models)} runs are done"
        state = state if done else f"not here: 0 of {len(models)} runs are done"
        items[f"Figure {number}"] = (f"logs of the {kind} networks on {names[dataset]}", [AGAIN], state)
    ordered = sorted(items, key=lambda place: (place.startswith("Figure"), int(place.split()[1])))
    return [Item(place, items[place][0], tuple(items[place][1]), items[place][2]) for place in ordered]


def _of_networks(own: int, again: int) -> str:
    count = len(paper.MODELS)
    if own == again == count:
        return "shown"
    if not own and not again:
        return "not here: no network is trained"
    return f"in part: {own} of {count} networks with our recipe, {again} of {count} with the paper's"


def _section_4(found: Evidence) -> list[Item]:
    vgg, resnet, googlenet = (found.networks[f"improved_{family}"] for family in ("vgg16", "resnet18", "googlenet"))
    plain = {family: found.networks[f"vanilla_{family}"] for family in claims.FAMILIES}
    convolutions = [layer for layer in vgg.layers if layer.kind == "convolution"]
    normed = sum(layer.parts[1:2] == ("BatchNorm",) for layer in convolutions)
    pools = [[layer.parts[0] for layer in one.layers if "adaptive" in layer.text] for one in (plain["vgg16"], vgg)]
    recipe = recipes.get("paper", "improved_vgg16", "cifar10")
    decays = "weights and biases" if recipe.decay_norms_and_biases else "weights alone"
    rows = [
        ("weight decay keeps a network from overfitting", [_why(found), RECIPES], _ablated(found, "weight-decay")),
        ("weight decay penalises weights and biases", [RECIPES], f"in the code: {recipe.weight_decay:g} on {decays}"),
        ("label smoothing keeps a network from being over-confident", [anchor("Calibration")], _confidence(found)),
        ("the targets of label smoothing", [DISAGREE, RECIPES], f"in the code: alpha {recipe.label_smoothing:g}"),
        ("improved VGG: BatchNorm after each convolution", [anchor("VGG16")],
         f"in the code: after {normed} of {len(convolutions)}"),
        ("improved VGG: another pool, fewer parameters", [anchor("VGG16")],
         f"in the code: {' '.join(pools[1])} instead of {' '.join(pools[0])}, {vgg.parameters:,} parameters instead of "
         f"{plain['vgg16'].parameters:,}"),
        ("improved VGG and ResNet: initialisation", [("zoo/vgg.py", "zoo/vgg.py"), ("zoo/resnet.py", "zoo/resnet.py"),
         ("its test", "tests/zoo/test_architectures.py")], "in the code, tested"),
        ("improved ResNet: a stem of three 3x3 convolutions, the dimensions as before", [anchor("ResNet18")],
         _stem(plain["resnet18"], resnet)),
        ("improved ResNet: dropout 0.1 has a positive impact", [_why(found), anchor("ResNet18")],
         _ablated(found, "dropout")),
        ("improved GoogLeNet: a stem of three 3x3 convolutions, the Inception modules as before", [anchor("GoogLeNet")],
         _stem(plain["googlenet"], googlenet)),
    ]  # fmt: skip
    return [Item("4", what, tuple(links), state) for what, links, state in rows]


def _stem(vanilla: Network, improved: Network) -> str:
    """Say what an improved network has before its first pool, and which of its other layers differ."""
    stem = list(takewhile(lambda layer: layer.kind != "pool", improved.layers))
    same = stem[-1].shape == vanilla.layers[0].shape
    others = [new.text for _, new, changed in layers.aligned(vanilla, improved) if changed and new and new not in stem]
    kernels = " and ".join(sorted({layer.text.partition(" ")[0] for layer in stem}))
    return (
        f"in the code: {len(stem)} convolutions of {kernels}, whose output {'is' if same else 'is not'} as before; "
        f"other layers that differ: {', '.join(others) or 'none'}"
    )


def _ablated(found: Evidence, name: str) -> str:
    """Say for how many networks a change was left out or added alone."""
    names = {f"{section4.VANILLA}+{name}", f"{section4.IMPROVED}-{name}"}
    done = [
        tables.title(one.dataset, one.model) for one in found.ablations if any(r.variant in names for r in one.runs)
    ]
    return f"checked: on {'; '.join(done)}" if done else f"not here: not trained without it yet (`{ABLATE}`)"


def _why(found: Evidence) -> tuple[str, str]:
    """Return a link to the ablation; to its command as long as there are no results."""
    return anchor("What made the difference") if found.ablations else ("train/ablate.py", "train/ablate.py")


def _confidence(found: Evidence) -> str:
    """Count the networks trained with label smoothing whose plain softmax says less than their accuracy."""
    measured = [
        entry.metrics.calibration.reliability_uncalibrated
        for entry in found.published.values()
        if entry.metrics.calibration and entry.metrics.settings.get("label_smoothing")
    ]
    under = sum(sum(row.images * (row.probability - row.accuracy) for row in bins) < 0 for bins in measured)
    if not measured:
        return "not here: no network is calibrated"
    return f"checked: {under} of {len(measured)} networks trained with it are under-confident"


def _section_5(found: Evidence) -> list[Item]:
    items = [
        Item("5.1", "the training of the vanilla networks", (RECIPES, AGAIN), _recipe("vanilla_vgg16")),
        Item("5.1", "the training of the improved networks", (RECIPES, AGAIN), _recipe("improved_vgg16")),
        Item("5.1", "the augmentation", (anchor("Images"), RECIPES), "shown"),
        Item(
            "5.2",
            "the sizes of the splits",
            (DISAGREE, ("catalog.py", "zoo/catalog.py")),
            "shown, with a difference: as its logs show them",
        ),
        Item("5.2", "one input channel for MNIST, ten classes", (("catalog.py", "zoo/catalog.py"),), "in the code"),
    ]
    chains = ours.chains(found.published)
    for name, dataset in DATASETS.items():
        here = anchor(f"Claims about {dataset.title}", "claims")
        again = _of(found.reproduced, name)
        verdicts = {
            claim.text: [claim.verdict(one) for one in tables.loss_sources(name, _of(chains, name), again).values()]
            for claim in losses.of(name)
        } | {
            claim.text: [claim.verdict(one) for one in tables.sources(name, _of(found.published, name), again).values()]
            for claim in claims.of(name)
        }
        items += [Item("5.3", f"{text} ({dataset.title})", (here,), _checked(said)) for text, said in verdicts.items()]
    return [*items, *_rest_of_section_5(found)]


def _rest_of_section_5(found: Evidence) -> list[Item]:
    variants = [
        f"{len({run.variant for run in one.runs})} of {len(ablation.variants(one.model, one.dataset))} variants of "
        f"{tables.title(one.dataset, one.model)}"
        for one in found.ablations
    ]
    vgg = [found.networks[model].parameters for model in ("improved_vgg16", "vanilla_vgg16")]
    return [
        Item("5.3", "which change makes the difference cannot be said", (_why(found),),
             f"in part: {'; '.join(variants)}" if variants else f"not here: not trained yet (`{ABLATE}`)"),
        Item("5.3", "86 and 76 % on validation, on average", (DISAGREE,), "checked against its logs"),
        Item("5.3", "the improved VGG has far fewer parameters", (anchor("VGG16"), DISAGREE),
             f"in the code: {100 * (1 - vgg[0] / vgg[1]):.0f} % fewer"),
        Item("5.3", "confusion matrices and two PCA components", (
             ("model_cards", "model_cards"), ("train/evaluate.py", "train/evaluate.py")),
             f"shown, with a difference: {len(found.published)} matrices in the cards; `evaluate.py` plots both"),
    ]  # fmt: skip


def _of(found: Mapping[tuple[str, str], Found], dataset: str) -> dict[str, Found]:
    """Return what there is of a dataset, by model."""
    return {model: entry for (name, model), entry in found.items() if name == dataset}


def _checked(verdicts: Sequence[str]) -> str:
    """Say in short what the columns of a claim's row say."""
    words = ("open" if verdict == "-" else verdict.partition(":")[0] for verdict in verdicts)
    where = ("its own numbers", "ours", "its recipe")
    return "checked: " + "; ".join(f"{name}: {word}" for name, word in zip(where, words, strict=True))


def _recipe(model: str) -> str:
    recipe = recipes.get("paper", model, "cifar10")
    rate, epochs, batch = recipe.learning_rate, recipe.epochs, recipe.batch_size
    return f"in the code: recipe `paper`, rate {rate:g}, {epochs} epochs, batches of {batch}"
