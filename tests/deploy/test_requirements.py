"""The requirements of a server without torch are those of pyproject.toml."""

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "requirements.py"
FILES = ("requirements-serve.txt", "requirements-serve-cpu.txt")
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}
MACHINES = [
    {"sys_platform": system, "platform_system": name, "platform_machine": machine}
    for system, name, machines in (
        ("linux", "Linux", ("x86_64", "aarch64")),
        ("win32", "Windows", ("AMD64", "ARM64")),
        ("darwin", "Darwin", ("arm64",)),
    )
    for machine in machines
]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / "deploy" / file).read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def extra(*names: str) -> list[Requirement]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return [Requirement(line) for name in names or ("serve",) for line in extras[name]]


def test_all_files_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES)
def test_all_but_the_runtime_is_the_extra(file: str) -> None:
    expected = {str(one) for one in extra() if one.name not in RUNTIMES}
    assert {str(one) for one in requirements(file) if one.name not in RUNTIMES} == expected


def test_what_most_servers_do_not_need_is_apart() -> None:
    found = {str(one) for one in requirements("requirements-optional.txt")}
    assert found == {str(one) for one in extra("grpc", "otel")}


def test_the_runtimes_are_the_extra_s() -> None:
    expected = {str(one) for one in extra() if one.name in RUNTIMES}
    assert {str(one) for one in requirements(FILES[0]) if one.name in RUNTIMES} == expected
    (cpu,) = (one for one in requirements(FILES[1]) if one.name in RUNTIMES)
    assert cpu.name == "onnxruntime"
    assert cpu.marker is None
    assert {str(cpu.specifier)} == {str(one.specifier) for one in extra() if one.name in RUNTIMES}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
@pytest.mark.parametrize("file", FILES)
def test_never_two_runtimes(file: str, machine: dict[str, str]) -> None:
    """Both packages install the same module."""
    chosen = [one for one in requirements(file) if one.marker is None or one.marker.evaluate(machine)]
    assert len([one for one in chosen if one.name in RUNTIMES]) == 1


@pytest.mark.parametrize("file", FILES)
def test_no_torch(file: str) -> None:
    assert {one.name for one in requirements(file)}.isdisjoint({"torch", "torchvision", "timm"})


@pytest.mark.parametrize(
    "runtimes",
    [
        ["onnxruntime>=1.28"],
        ["onnxruntime-gpu>=1.28"],
        ["onnxruntime>=1.27; platform_system == 'Darwin'", "onnxruntime-gpu>=1.28; platform_system != 'Darwin'"],
    ],
)
def test_an_extra_that_gives_no_two_files_is_refused(script: dict[str, Any], runtimes: list[str]) -> None:
    pyproject = f"[project.optional-dependencies]\nserve = {['numpy', *runtimes]}\ngrpc = []\notel = []"
    with pytest.raises(ValueError, match="must name onnxruntime and onnxruntime-gpu"):
        script["files"](pyproject)


def test_a_change_of_the_extra_changes_both(script: dict[str, Any]) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    changed = script["files"](text.replace("\nserve = [\n", '\nserve = [\n  "a_new.package>=3",\n'))
    for file in FILES:
        assert "a_new.package>=3\n" in changed[file]
        assert "a_new.package" not in (ROOT / "deploy" / file).read_text()
