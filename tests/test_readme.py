"""What the README shows runs: its Python blocks, its commands' flags, its table of published models."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from train import models, table

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "console"
    for line in block.splitlines()
    if line.startswith("$ ")
]
SCRIPTS = [command for command in COMMANDS if re.match(r"(accelerate launch|python) (-m serve|train/)", command)]


@cache
def usage(*script: str) -> str:
    command = [sys.executable, *script, "--help"]
    return subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout


def test_there_is_something_to_check() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "pycon", "python"}
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert len(SCRIPTS) >= 5


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(block: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", block], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("command", SCRIPTS)
def test_commands_use_flags_that_exist(command: str) -> None:
    words = shlex.split(command.removeprefix("accelerate launch").removeprefix("python"))
    script = words[:2] if words[0] == "-m" else words[:1]
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", usage(*script)), f"{flag} is no flag of {' '.join(script)}"


def test_flags_in_the_text_exist() -> None:
    section = README.partition("## Train")[2].partition("## Serve")[0]
    flags = set(re.findall(r"`(--[a-z-]+)", section))
    assert len(flags) >= 8
    assert flags - set(re.findall(r"--[a-z-]+", usage("train/fit.py"))) == set()


def test_table_is_that_of_the_published_metrics() -> None:
    assert table.with_rows(README, models.cards()) == README


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def test_makefile_has_what_the_readme_names() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", "\n".join([README, *COMMANDS]), re.MULTILINE))
    assert targets >= {"demo", "test", "verify", "onnx"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
