"""The cores that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Count the cores by the process's affinity and its control group's CPU quota (`os.cpu_count` knows neither).

    Args:
        root: of the file system, for tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of the process's control groups and of all groups that enclose them."""
    try:
        groups = [line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, IndexError):
        groups = []
    # In a container the files may be those of the group itself.
    for folder in {parent for group in ("/", *groups) for parent in (Path(group), *Path(group).parents)}:
        path = str(folder).lstrip("/")
        for read in (_version_2, _version_1):
            try:
                quota, period = read(root / "sys/fs/cgroup", path)
                if quota > 0:
                    yield quota / period
            except (OSError, ValueError):  # no such file, or no limit
                pass


def _version_2(cgroup: Path, path: str) -> tuple[int, int]:
    quota, period = (cgroup / path / "cpu.max").read_text().split()
    return int(quota), int(period)  # "max" is no limit


def _version_1(cgroup: Path, path: str) -> tuple[int, int]:
    folder = cgroup / "cpu" / path
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())
