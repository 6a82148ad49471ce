"""What the machine offers the process: cores, 8-bit dot products, and 8-bit matrices in tiles."""

import math
import os
import platform
from pathlib import Path

from serve.settings import Settings


def _quota(root: Path) -> float:
    """Read how many cores the control group's CPU quota amounts to; infinity where there is none."""
    limits = [math.inf]
    try:
        groups = [line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, IndexError):
        groups = []
    for group in {"/", *groups}:
        # The quotas of all enclosing groups apply too.
        for part in [Path(group), *Path(group).parents]:
            folder = root / "sys/fs/cgroup" / str(part).lstrip("/")
            try:
                quota, period = (folder / "cpu.max").read_text().split()
                limits.append(math.inf if quota == "max" else int(quota) / int(period))
            except (OSError, ValueError):
                pass
            old = root / "sys/fs/cgroup/cpu" / str(part).lstrip("/")
            try:
                microseconds = int((old / "cpu.cfs_quota_us").read_text())
                if microseconds > 0:
                    limits.append(microseconds / int((old / "cpu.cfs_period_us").read_text()))
            except (OSError, ValueError):
                pass
    return min(limits)


def inference_cores(settings: Settings) -> int:
    """How many cores inference may use."""
    return settings.threads or usable_cores()


def usable_cores(root: Path = Path("/")) -> int:
    """Count the cores this process may use: its affinity, limited by a CPU quota (`os.cpu_count` knows neither)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(root))))


def has_int8_dot_product(root: Path = Path("/")) -> bool:
    """Tell whether sums of 8-bit products are made in one instruction here, in 32 bits: VNNI on x86, SDOT on Arm."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return bool(_flags(root) & {"avx512_vnni", "avx_vnni", "asimddp"})


def has_fast_int8(root: Path = Path("/")) -> bool:
    """Tell whether int8 networks run faster than fp32 ones here: with 8-bit dot products, or with AVX2.

    With AVX2 alone ONNX Runtime's exact kernels multiply in 16 bits, and still do one and a third to two times what it
    does in fp32 (docs/performance.md).
    """
    return has_int8_dot_product(root) or "avx2" in _flags(root)


def has_int8_tiles(root: Path = Path("/")) -> bool:
    """Tell whether matrices of int8 are multiplied in tiles here: AMX, in Intel's server processors since 2023."""
    return {"amx_tile", "amx_int8"} <= _flags(root)


def _flags(root: Path) -> set[str]:
    """Read the processor's features as Linux lists them; none elsewhere."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {
        word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()
    }
