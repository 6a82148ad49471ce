"""The systemd unit."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "deep-image-zoo.service"


def test_it_confines_the_server() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    for name in ("DynamicUser", "PrivateTmp", "NoNewPrivileges", "ProtectHome", "PrivateDevices"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert "API_KEY" not in service["Environment"]  # everybody may read a unit
    assert service["ExecStart"].split()[1:3] == ["-m", "serve"]


def test_systemd_understands_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    copy = tmp_path / UNIT.name
    # It must name a program that exists.
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", copy], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_it_well_confined() -> None:
    """Exposure is 0 (best) to 100. Without the unit's restrictions it is 96."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd is older than version 250")
    assert done.returncode == 0, done.stdout
