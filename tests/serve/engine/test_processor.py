"""How many cores the process may use, by affinity and by the quotas of control groups."""

import os
from pathlib import Path

import pytest

from serve.engine.processor import inference_cores, usable_cores
from serve.settings import Settings

V1, V2 = "4:cpu,cpuacct:/pod/box", "0::/pod/box"


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("", {}, 8),
        ("no group", {"cpu.max": "100000 100000"}, 1),
        (V2, {}, 8),
        (V2, {"pod/box/cpu.max": "max 100000"}, 8),
        (V2, {"pod/box/cpu.max": "300000 100000"}, 3),
        (V2, {"pod/box/cpu.max": "250000 100000"}, 3),
        (V2, {"pod/box/cpu.max": "20000 100000"}, 1),
        (V2, {"pod/box/cpu.max": "9900000 100000"}, 8),
        (V2, {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "300000 100000"}, 2),
        (V2, {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000"}, 2),
        (V2, {"cpu.max": "200000 100000"}, 2),
        (V2, {"other/cpu.max": "200000 100000"}, 8),
        (V2, {"pod/box/cpu.max": "nonsense"}, 8),
        (V1, {"cpu/pod/box/cpu.cfs_quota_us": "-1", "cpu/pod/box/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/pod/box/cpu.cfs_quota_us": "150000", "cpu/pod/box/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/pod/cpu.cfs_quota_us": "100000", "cpu/pod/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/pod/box/cpu.cfs_quota_us": "100000"}, 8),
    ],
)
def test_quotas_limit_the_cores(
    group: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    if group:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    assert usable_cores(tmp_path) == cores


def test_threads_of_the_settings_come_first() -> None:
    assert inference_cores(Settings(threads=3)) == 3
    assert inference_cores(Settings()) == usable_cores()
