"""What the report says first: three sentences about all results, worded by the numbers."""

from statistics import fmean

from train.cards.rendering import fixed, listed
from train.paper import claims, ours, paper, tables
from train.paper.ours import Entries
from train.records import CardMetrics, PaperRun, RunMetrics
from zoo.catalog import DATASETS

# An accuracy in the paper has two decimals.
DIGITS = 2


def sentences(published: Entries[CardMetrics], reproduced: Entries[PaperRun]) -> list[str]:
    """Return the three sentences: our accuracy beside the paper's, its claims, and our runs of its recipe."""
    return [_accuracy(published), _claims(published, reproduced), _reproductions(reproduced)]


def differences(entries: Entries[RunMetrics]) -> dict[tuple[str, str], float]:
    """Return by how many points our mean of the classes is above the paper's, by dataset and model."""
    found = {}
    for dataset, model in tables.in_order(entries):
        own = fmean(entries[dataset, model].metrics.tested_classes.values())
        theirs = paper.accuracy(dataset, model)
        assert theirs is not None  # `in_order` has none but the paper's networks
        found[dataset, model] = round(own, DIGITS) - theirs
    return found


def _accuracy(published: Entries[CardMetrics]) -> str:
    by_key = {key: round(value, DIGITS) for key, value in differences(published).items()}
    more, less = (sum(sign * value > 0 for value in by_key.values()) for sign in (1, -1))
    counts = [
        f"{count} {'is' if count == 1 else 'are'} {words}"
        for count, words in (
            (more, "more accurate than the paper's"),
            (len(by_key) - more - less, "as accurate"),
            (less, "less accurate"),
        )
        if count
    ]
    means = [
        f"{fmean(values):+.2f} points on {entry.title} ({min(values):+.2f} to {max(values):+.2f})"
        for name, entry in DATASETS.items()
        if (values := [value for (dataset, _), value in by_key.items() if dataset == name])
    ]
    return f"Of our {len(by_key)} published models, {listed(counts)}: on average {listed(means)}."


def _claims(published: Entries[CardMetrics], reproduced: Entries[PaperRun]) -> str:
    own = [claim.verdict(paper.results(name)) for name in DATASETS for claim in claims.of(name)]
    ours_, again = (_verdicts(entries) for entries in (published, reproduced))
    decided = len(again) - again.count("-")
    repeated = f"our runs of its recipe decide {decided or 'none'} so far"
    if decided:
        repeated += f", of which {_held(again)}"
    return (
        f"Of the paper's {len(own)} claims about accuracy, {_held(own)} in its own tables and {_held(ours_)} in our "
        f"results; {repeated}."
    )


def _verdicts(entries: Entries[RunMetrics]) -> list[str]:
    """Check all claims about accuracy against published models or reproductions."""
    found = []
    for name in DATASETS:
        results = tables.results({model: entry for (dataset, model), entry in entries.items() if dataset == name})
        found += [claim.verdict(results) for claim in claims.of(name)]
    return found


def _held(verdicts: list[str]) -> str:
    """Count the claims that hold, as in "4 hold (2 within noise)"."""
    holding = [verdict for verdict in verdicts if verdict.startswith("yes")]
    noisy = sum(verdict.startswith("yes, within noise") for verdict in holding)
    words = f"{len(holding) or 'none'} {'holds' if len(holding) < 2 else 'hold'}"
    return f"{words} ({noisy} within noise)" if noisy else words


def _reproductions(reproduced: Entries[PaperRun]) -> str:
    every = len(ours.ALL)
    if not reproduced:
        return f"None of the paper's {every} runs has been repeated with its own recipe yet."
    found = differences(reproduced)
    farthest = max(found, key=lambda key: abs(found[key]))
    where = "above" if found[farthest] > 0 else "below"
    return (
        f"Repeated with the paper's own recipe, {len(found)} of its {every} runs end on average "
        f"{fixed(fmean(map(abs, found.values())))} points from its accuracy, at most "
        f"{fixed(abs(found[farthest]))} points {where} it ({tables.title(*farthest)})."
    )
