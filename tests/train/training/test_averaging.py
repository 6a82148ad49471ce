"""The mean of the weights before and after fine-tuning."""

import pytest
import torch
from torch import nn

from train.training.averaging import SHARES, Averaging


def weights_of(model: nn.Module) -> list[float]:
    return [float(value) for value in model.state_dict()["0.weight"].flatten()]


class Trained:
    """A model whose weight went from 0 to 8, and an accuracy that is a function of it."""

    def __init__(self, accuracy: dict[float, float], start: float) -> None:
        self.layer, self.norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)
        self.model = nn.Sequential(self.layer, self.norm)
        nn.init.zeros_(self.layer.weight)
        self.averaging = Averaging(self.model, start)
        with torch.no_grad():
            self.layer.weight.fill_(8.0)
            assert self.norm.num_batches_tracked is not None
            self.norm.num_batches_tracked.fill_(5)
        self.accuracy = accuracy
        self.seen: list[float] = []

    def validate(self) -> dict[str, float]:
        (weight,) = weights_of(self.model)
        self.seen.append(weight)
        return {"epoch": 1, "validation_accuracy": self.accuracy.get(weight / 8, 0.0)}


@pytest.mark.parametrize(
    ("accuracy", "start", "kept"),
    [
        ({1.0: 90.0}, 80.0, 1.0),
        ({1.0: 90.0, 0.75: 90.0, 0.5: 90.0, 0.25: 85.0}, 80.0, 0.5),  # no reason for more
        ({1.0: 90.0, 0.75: 90.0, 0.5: 90.0, 0.25: 90.0, 0.0: 90.0}, 90.0, 0.0),
        ({1.0: 90.0, 0.75: 91.0, 0.5: 93.0, 0.25: 92.0}, 92.5, 0.5),
        ({1.0: 90.0, 0.5: 91.0, 0.0: 92.5}, 92.5, 0.0),
    ],
)
def test_the_best_on_validation_is_kept(accuracy: dict[float, float], start: float, kept: float) -> None:
    trained = Trained(accuracy, start)
    row = trained.averaging.choose(trained.model, trained.validate)
    assert row == {"epoch": 1, "validation_accuracy": accuracy[kept], "share_of_training": kept}
    assert weights_of(trained.model) == [8 * kept]
    assert trained.seen == [8 * share for share in (*SHARES, *([0.0] if kept == 0 else []))]
    assert trained.norm.num_batches_tracked == 5
    trained.averaging.restore(trained.model)
    assert weights_of(trained.model) == [8.0]


def test_each_epoch_has_its_own_mean() -> None:
    trained = Trained({1.0: 50.0, 0.25: 60.0}, 0.0)
    trained.averaging.choose(trained.model, trained.validate)
    trained.averaging.restore(trained.model)
    with torch.no_grad():
        trained.layer.weight.fill_(16.0)
    trained.accuracy = {2.0: 70.0, 1.0: 80.0}  # by eighths of the weight: the whole, and half of the way
    row = trained.averaging.choose(trained.model, trained.validate)
    assert (row["share_of_training"], row["validation_accuracy"], weights_of(trained.model)) == (0.5, 80.0, [8.0])
    trained.averaging.restore(trained.model)
    assert weights_of(trained.model) == [16.0]
