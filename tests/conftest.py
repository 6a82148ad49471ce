"""What the tests of training and of the server share."""

import gc
import os
import subprocess
from collections.abc import Iterator

import pytest

# A process of tests imports a hundred packages, whose objects stay. By default Python looks through all of them so
# often that it takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish() -> None:
    """Have Python look no more through what has been imported, not even where a test or pytest asks it to."""
    gc.freeze()


# Before pytest-xdist reads the groups, and after tests/serve/conftest.py has made the serial one.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, one of them runs all tests of a file: what its fixtures compute is computed once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: to the processes in them, two machines.

    Their addresses are 10.77.0.1 and 10.77.0.2, on the interface `cable`.
    """
    names = (f"zoo-{os.getpid()}-a", f"zoo-{os.getpid()}-b")

    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip("needs the right to make network namespaces")
    try:
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)
