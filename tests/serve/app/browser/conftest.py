"""One browser and one server of published models for all files of this folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from .driving import Visitor

MARKS = [
    pytest.mark.browser,
    # Playwright's own event loop is left open until the last test of the session.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "serve" / "examples"
CARDS = Path(os.environ.get("ZOO_MODEL_CARDS", ROOT / "model_cards"))
PUBLISHED = ["improved_googlenet.mnist", "improved_googlenet.cifar10"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The same without windows and without cameras takes a fifth less processor time.
SHELL = shutil.which("chromium-headless-shell") or CHROMIUM
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=SHELL, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def url(running: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of published models; builds their ONNX files first if they are missing."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    if not all((CARDS / name / "model.onnx").exists() for name in PUBLISHED):
        subprocess.run([sys.executable, "train/export.py", "--missing", *PUBLISHED], cwd=ROOT, check=True)
    with running("--models", CARDS) as server:
        yield server.url


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A first visit: nothing is in the cache."""
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        yield context


@pytest.fixture(scope="package")
def desktop(browser: Browser) -> Iterator[Visitor]:
    visitor = Visitor(browser, phone=False)
    yield visitor
    visitor.context.close()


@pytest.fixture(scope="package")
def phone(browser: Browser) -> Iterator[Visitor]:
    visitor = Visitor(browser, phone=True)
    yield visitor
    visitor.context.close()


@pytest.fixture
def page(desktop: Visitor, url: str) -> Page:
    """The page, ready to draw on."""
    return desktop.open(url)
