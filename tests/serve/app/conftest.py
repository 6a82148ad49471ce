"""One server with the app, for the tests that change nothing of it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def shared(running: type, tiny: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server of two networks for digits, one for colour images and one of other classes and size."""
    folder = tmp_path_factory.mktemp("models")
    digits = [str(digit) for digit in range(10)]
    weak = tiny(folder / "vanilla_vgg16.mnist", shape=(28, 28, 1), seed=1, labels=digits).write(accuracy="97.5")
    strong = tiny(folder / "improved_vgg16.mnist", shape=(28, 28, 1), seed=2, labels=digits).write(accuracy="99.5")
    colour = tiny(folder / "improved_resnet18.cifar10", seed=3).write(accuracy="90")
    own = tiny(folder / "resnet50.pets", shape=(40, 56, 3), seed=4).write(accuracy="80")
    with running("--models", folder) as server:
        yield SimpleNamespace(url=server.url, weak=weak, strong=strong, colour=colour, own=own)
