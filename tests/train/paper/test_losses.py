"""The paper's claims about the loss, by its logs and by others."""

import pytest

from train.paper import claims, losses

FALLING = [2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03, 0.03, 0.03]
RISING = [1.0, 0.9, 0.8, 0.9, 1.0, 1.1, 1.2, 1.1, 1.3, 1.4, 1.5, 1.6]


def verdicts(dataset: str, found: losses.Losses) -> list[str]:
    return [claim.verdict(found).partition(":")[0] for claim in losses.of(dataset)]


def test_claims_by_the_papers_own_logs() -> None:
    """Its two epochs show where the losses end, not how they change."""
    found = losses.in_the_papers_logs("mnist")
    zero, lowest, stable, slow, lower = (claim.verdict(found) for claim in losses.of("mnist"))
    # With smoothed labels the loss cannot fall below the targets' entropy of 0.50.
    assert zero == "no: up to 0.54 at the end (Improved VGG16)"
    assert lowest == "yes: GoogLeNet 0.025, ResNet18 0.038, VGG16 0.063"
    assert (stable, slow) == ("-", "-")
    assert lower == "yes: GoogLeNet 0.025, Improved GoogLeNet 0.506"
    assert verdicts("cifar10", losses.in_the_papers_logs("cifar10")) == ["-", "-"]


def test_claims_follow_the_losses() -> None:
    bumpy = [2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.01, 0.3, 0.01, 0.3, 0.01, 0.005]
    agreeing = dict.fromkeys(claims.ALL, FALLING) | {"vanilla_googlenet": bumpy}
    assert verdicts("mnist", agreeing) == ["yes"] * 5
    contradicting = dict.fromkeys(claims.ALL, bumpy) | {"vanilla_googlenet": RISING}
    assert verdicts("mnist", contradicting) == ["no"] * 5
    agreeing = dict.fromkeys(claims.VANILLA, RISING) | dict.fromkeys(claims.IMPROVED, FALLING)
    assert verdicts("cifar10", agreeing) == ["yes", "yes"]
    swapped = dict.fromkeys(claims.VANILLA, FALLING) | dict.fromkeys(claims.IMPROVED, RISING)
    assert verdicts("cifar10", swapped) == ["no", "no"]


def test_one_network_can_refute_what_is_said_of_each_but_not_prove_it() -> None:
    rise, fall = losses.of("cifar10")
    assert rise.verdict({"vanilla_vgg16": RISING}) == "-"
    refuted = rise.verdict({"vanilla_vgg16": FALLING})
    assert refuted == "no: epoch of the lowest loss, share of the later epochs in which it rises: VGG16 10, 0 %"
    assert fall.verdict({"improved_vgg16": RISING}) == "no: lowest, last: Improved VGG16 0.80, 1.60"
    assert fall.verdict({}) == "-"
    for claim in losses.of("mnist")[1:]:
        assert claim.verdict({"vanilla_googlenet": RISING}) == "-"


@pytest.mark.parametrize(("share", "holds"), [(0.75, False), (0.85, True)])
def test_almost_every_epoch_is_four_fifths(share: float, holds: bool) -> None:
    values, rises = [0.5], round(20 * share)
    for i in range(20):
        values.append(values[-1] + (0.1 if i < rises else -0.01))
    found = losses.of("cifar10")[0].verdict(dict.fromkeys(claims.VANILLA, values))
    assert found.startswith("yes" if holds else "no")
