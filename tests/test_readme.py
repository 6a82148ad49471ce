"""What the README and the pages under docs/ show runs: Python blocks, commands' flags, links, the table of models."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from train.cards import readme_table
from train.training import models

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "REPORT.md")] + sorted(
    (REPOSITORY / "docs").glob("*.md")
)
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "console"
    for line in block.splitlines()
    if line.startswith("$ ")
]
SCRIPTS = sorted(
    {command for command in COMMANDS if re.match(r"(accelerate launch|python) (-m serve|train/)", command)}
)


def script_of(command: str) -> str:
    """The command's script, as `train/fit.py` or `-m serve`."""
    words = shlex.split(command.removeprefix("accelerate launch").removeprefix("python"))
    return " ".join(words[:2] if words[0] == "-m" else words[:1])


# Prints the `--help` of each script as JSON. One process for all: most of their time is that of the same imports.
HELP = """
import contextlib, io, json, runpy, sys
usages = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        module = script.removeprefix("-m ")
        runpy.run_path(script, run_name="__main__") if module == script else runpy.run_module(
            module, run_name="__main__", alter_sys=True
        )
    usages[script] = said.getvalue()
print(json.dumps(usages))
"""


@cache
def usages() -> dict[str, str]:
    command = [sys.executable, "-c", HELP, *sorted({script_of(command) for command in SCRIPTS})]
    found = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
    return json.loads(found)


def test_there_is_something_to_check() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "pycon", "python", "text"}
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert len(SCRIPTS) >= 5


def test_python_blocks_run() -> None:
    """Each without the names of the others, all in one process."""
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert len(blocks) >= 2
    # Without the last line Python would look for garbage among torch's objects at the end, which takes a second.
    each = "import gc, sys\nfor block in sys.argv[1:]:\n    exec(block, {})\ngc.freeze()"
    subprocess.run([sys.executable, "-W", "error", "-c", each, *blocks], check=True, cwd=REPOSITORY)


@pytest.mark.xdist_group("usages")
@pytest.mark.parametrize("command", SCRIPTS)
def test_commands_use_flags_that_exist(command: str) -> None:
    script = script_of(command)
    for flag in (word for word in shlex.split(command) if word.startswith("--")):
        assert re.search(rf"{flag}\b", usages()[script]), f"{flag} is no flag of {script}"


@pytest.mark.xdist_group("usages")
def test_flags_in_the_text_exist() -> None:
    short = README.partition("## Train")[2].partition("## Serve")[0]
    full = (REPOSITORY / "docs" / "training.md").read_text().partition("## Publishing")[0]
    flags = set(re.findall(r"`(--[a-z_-]+)", short + full))
    assert len(flags) >= 8
    known = {
        flag for script in ("train/fit.py", "train/ablate.py") for flag in re.findall(r"--[a-z-]+", usages()[script])
    }
    of_accelerate = {"--cpu", "--machine_rank", "--multi_gpu", "--num_machines", "--num_processes"}
    assert flags - known - of_accelerate == set()


def test_table_is_that_of_the_published_metrics() -> None:
    assert readme_table.with_rows(README, models.cards()) == README


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for name, anchor in targets:
        target = (page.parent / name) if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    for page in PAGES[1:]:
        assert f"]({page.relative_to(REPOSITORY)})" in README, page.name


def test_makefile_has_what_the_readme_names() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", "\n".join([TEXT, *COMMANDS]), re.MULTILINE))
    assert targets >= {"demo", "test", "verify", "onnx"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
