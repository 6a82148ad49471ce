"""What the machine offers this process: cores, 8-bit dot products, and 8-bit matrix products in tiles."""

import math
import os
import platform
from pathlib import Path

from serve.settings import Settings


def inference_cores(settings: Settings) -> int:
    """The number of cores for inference: `settings.threads`, or all that this process may use."""
    return settings.threads or usable_cores()


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use: those of its CPU affinity, or fewer under a CPU quota.

    `os.cpu_count` knows neither limit.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(root))))


def _quota(root: Path) -> float:
    """The CPU quota of this process's control groups, in cores; infinity without one."""
    try:
        groups = [line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, IndexError):
        groups = []
    # The quotas of all enclosing groups apply too.
    paths = {path for group in ("/", *groups) for path in (Path(group), *Path(group).parents)}
    return min(_group_quota(root / "sys/fs/cgroup", str(path).lstrip("/")) for path in paths)


def _group_quota(hierarchy: Path, group: str) -> float:
    """The CPU quota of one control group, in cores; infinity without one."""
    limits = [math.inf]
    try:  # version 2
        quota, period = (hierarchy / group / "cpu.max").read_text().split()
        if quota != "max":
            limits.append(int(quota) / int(period))
    except (OSError, ValueError):
        pass
    try:  # version 1
        folder = hierarchy / "cpu" / group
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        if microseconds > 0:
            limits.append(microseconds / int((folder / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits)


def has_int8_dot_product(root: Path = Path("/")) -> bool:
    """Tell whether one instruction here sums 8-bit products in 32 bits: VNNI on x86, SDOT on Arm."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return bool(_flags(root) & {"avx512_vnni", "avx_vnni", "asimddp"})


def has_fast_int8(root: Path = Path("/")) -> bool:
    """Tell whether int8 models run faster than fp32 ones here: with 8-bit dot products, or with AVX2.

    With AVX2 alone, ONNX Runtime's exact kernels multiply in 16 bits, and still give 1.3 to 2 times as many images/s as
    fp32 (docs/performance.md).
    """
    return has_int8_dot_product(root) or "avx2" in _flags(root)


def has_int8_tiles(root: Path = Path("/")) -> bool:
    """Tell whether this processor multiplies int8 matrices in tiles: AMX, in Intel's server processors since 2023."""
    return {"amx_tile", "amx_int8"} <= _flags(root)


def _flags(root: Path) -> set[str]:
    """The processor's features as Linux lists them; none on other systems."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {
        word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()
    }
