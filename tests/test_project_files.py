"""What hosts and package indexes read: metadata, workflows, the citation."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import zoo
from zoo.catalog import PAPER

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
SCHEMAS = {
    GITHUB / "dependabot.yml": "dependabot",
    **dict.fromkeys(sorted((GITHUB / "workflows").glob("*.yml")), "github-workflows"),
}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    return runpy.run_path("setup.py", run_name="setup")


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_a_file_for_github_keeps_to_its_schema(file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[file]}", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_test_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text())["jobs"]
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert tested == promised
    assert project["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("form", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[bi]*.yml")), ids=lambda form: form.name)
def test_issue_forms_have_what_github_needs(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    for field in content["body"]:
        assert field["type"] == "textarea"
        assert field["attributes"]["label"]


def test_the_citation_is_that_of_the_project_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == zoo.__version__
    assert citation["preferred-citation"]["title"] == PAPER
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert citation["title"] == pyproject["project"]["name"]
    assert citation.get("repository-code", "") == pyproject["tool"]["deep-image-zoo"]["repository"]


def test_links_of_the_readme_are_absolute_on_pypi(setup: dict[str, Any]) -> None:
    address = "https://example.com/someone/zoo"
    text = setup["readme"](address)
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert all(target.startswith(("https://", "http://", "#")) for target in targets), targets
    assert "![The app: a drawn digit" in text
    assert f"({address}/raw/main/docs/app-draw.png)" in text
    assert f"({address}/blob/main/CHANGELOG.md)" in text
    assert setup["readme"]("") == (ROOT / "README.md").read_text()


def test_urls_follow_from_one_address(setup: dict[str, Any]) -> None:
    address = "https://example.com/someone/zoo"
    assert setup["urls"]("") == {}
    assert set(setup["urls"](address)) == {"Repository", "Issues", "Changelog", "Documentation"}
    assert all(url.startswith(address) for url in setup["urls"](address).values())
