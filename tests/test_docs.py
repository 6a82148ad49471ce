"""The documentation site: its navigation names every page, a strict build passes, and nothing comes from elsewhere."""

import base64
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files, get_files
from mkdocs.structure.pages import Page
from playwright.sync_api import Browser, sync_playwright

from docs.site import hooks

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def config() -> MkDocsConfig:
    loaded = load_config(str(ROOT / "mkdocs.yml"))
    return loaded.plugins.on_config(loaded)


@pytest.fixture(scope="module")
def files(config: MkDocsConfig) -> Files:
    return config.plugins.on_files(get_files(config), config=config)


def named(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in all its sections."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from named(part)


def test_the_navigation_names_every_page(config: MkDocsConfig) -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {path.name for path in ROOT.glob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("model_cards/*/README.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    found = list(named(config.nav))
    assert sorted(found) == sorted(pages)


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("training.md", "[a](own-images.md#training)", "[a](own-images.md#training)"),
        ("training.md", "[a](../REPORT.md#cost)", "[a](REPORT.md#cost)"),
        ("api/zoo.md", "[a](../training.md)", "[a](../training.md)"),
        ("README.md", "![a](docs/app-draw.png)", "![a](app-draw.png)"),
        ("README.md", "[![a](docs/app-draw.png)](docs/serving.md)", "[![a](app-draw.png)](serving.md)"),
        ("README.md", "[`a`](model_cards/improved_vgg16.mnist)", "[`a`](model_cards/improved_vgg16.mnist/README.md)"),
        ("README.md", "[![badge](https://example.com/a.svg)](https://example.com)", "[badge](https://example.com)"),
        ("README.md", "[a](https://example.com) [b](#train)", "[a](https://example.com) [b](#train)"),
        ("README.md", "`[a](b.md)`\n\n```\n[a](b.md)\n```\n", "`[a](b.md)`\n\n```\n[a](b.md)\n```\n"),
        # There is no page for code; without an address of the repository it is text.
        ("training.md", "see [zoo/vgg.py](../zoo/vgg.py).", "see zoo/vgg.py."),
        ("CONTRIBUTING.md", "[`vgg`](zoo/vgg.py#L1)", "`vgg`"),
    ],
)
def test_links_work_on_the_site(page: str, before: str, after: str, config: MkDocsConfig, files: Files) -> None:
    file = files.get_file_from_path(page)
    assert file
    assert hooks.on_page_markdown(before, page=Page(None, file, config), files=files) == after


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    image = base64.b64encode(b"image").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["two\n", "lines\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["<Figure>"], "image/png": image}},
        {"output_type": "execute_result", "data": {"text/plain": "x", "text/markdown": ["| a |\n", "|---|"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text"]},
        {"cell_type": "code", "source": "print(1)", "outputs": outputs},
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    file = tmp_path / "1-first.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    text, images = hooks.from_notebook(file)
    assert text == (
        "# Title\nText\n\n```python\nprint(1)\n```\n\n```text\ntwo\nlines\n```\n\n"
        "![Output](1-first-1.png)\n\n| a |\n|---|\n"
    )
    assert images == {"1-first-1.png": b"image"}


def test_notebooks_are_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    config = load_config(str(ROOT / "mkdocs.yml"))
    before = list(named(config.nav))
    assert list(named(hooks.on_config(config).nav)) == before
    for file in ("notebooks/2-second.ipynb", "notebooks/1-first.ipynb", "docs/lessons.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    nav = hooks.on_config(config).nav
    assert {"Lessons": ["lessons.md", "notebooks/1-first.md", "notebooks/2-second.md"]} in nav
    assert list(named(nav))[:1] == before[:1]


def test_code_is_linked_in_the_repository(config: MkDocsConfig, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "REPOSITORY", "https://example.com/someone/zoo")
    file = files.get_file_from_path("training.md")
    assert file
    text = hooks.on_page_markdown("[a](../zoo/vgg.py)", page=Page(None, file, config), files=files)
    assert text == "[a](https://example.com/someone/zoo/blob/main/zoo/vgg.py)"


@pytest.mark.parametrize("link", ["missing.md", "../zoo/missing.py", "../../outside.md"])
def test_a_dead_link_is_a_warning(
    link: str, config: MkDocsConfig, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """Which ends a strict build."""
    assert config.strict
    file = files.get_file_from_path("training.md")
    assert file
    with caplog.at_level(logging.WARNING):
        hooks.on_page_markdown(f"[a]({link})", page=Page(None, file, config), files=files)
    assert f"docs/training.md links to {link}, which does not exist" in caplog.text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return folder


def test_it_has_every_page_and_the_reference(site: Path, config: MkDocsConfig) -> None:
    for page in named(config.nav):
        assert (site / re.sub(r"README\.md$", "index.md", page)).with_suffix(".html").is_file(), page
    for page, names in {
        "zoo": ("zoo.calibration.probabilities", "zoo.vgg.improved_vgg16"),
        "train": ("train.training.recipes.Recipe", "train.cards.hub.push"),
        "serve": ("serve.api.create_app", "serve.settings.Settings", "serve.errors.ApiError"),
    }.items():
        text = (site / "api" / f"{page}.html").read_text()
        assert all(f'id="{name}"' in text for name in names), page
    assert not list(site.rglob("*.py"))
    assert not list(site.rglob("*.csv"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_fetch_nothing(scheme: Any, site: Path, browser: Browser) -> None:
    """Opened from the disk, on a desktop and on a phone."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in (
        "index",
        "get-started",
        "REPORT",
        "performance",
        "model_cards/improved_resnet18.cifar10/index",
        "api/serve",
    ):
        page.set_viewport_size({"width": 1280, "height": 844})
        page.goto((site / f"{name}.html").as_uri())
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.evaluate("Promise.allSettled(document.getAnimations().map(one => one.finished))")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
    shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
    assert shown == {"light": "default", "dark": "slate"}[scheme]
    assert not errors
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    context.close()


@pytest.mark.browser
def test_search_works_from_the_disk(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("abstain")
    result = page.locator("a.md-search-result__link").first
    result.wait_for()
    assert result.get_attribute("href")
    page.close()
