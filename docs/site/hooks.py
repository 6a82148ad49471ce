"""What MkDocs cannot do by itself: pages from outside docs/, and links that work on GitHub and on the site.

A link in a page names a file of the repository, as GitHub takes it. Here it becomes a link to the page made from that
file; else to the file in the repository, where pyproject.toml has its address; else it is the text alone. A file that
does not exist is a warning, which ends a strict build.
"""

import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("README.md", "REPORT.md", "CONTRIBUTING.md", "CHANGELOG.md")
ICON = "serve/app/static/icon.svg"
REPOSITORY: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["deep-image-zoo"]["repository"]
# Code is left as it is: a fenced block, a span between backticks. Then a link with at most one pair of brackets in it.
PARTS = re.compile(
    r"^ *```.*?^ *```|(?<!!)\[((?:[^\[\]]|!?\[[^\[\]]*\])*)\]\(([^()\s]+)\)|`[^`\n]+`",
    re.MULTILINE | re.DOTALL,
)
IMAGES = re.compile(r"(?<=!\[)([^\[\]]*)\]\(([^()\s]+)\)")

log = get_plugin_logger(__name__)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the repository's address where there is one."""
    config.repo_url = REPOSITORY or None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root, the model cards with their images, and the icon."""
    cards = sorted(path for path in (ROOT / "model_cards").glob("*/*") if path.suffix in (".md", ".png"))
    for name in (*ROOT_PAGES, ICON, *(path.relative_to(ROOT).as_posix() for path in cards)):
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Point the links of a page to the site's pages."""
    source = page.file.src_uri
    folder = posixpath.dirname(_in_repository(page.file))

    def target(link: str) -> str | None:
        """Return what a link becomes; None for a file that nothing shows."""
        path, hash_, anchor = link.partition("#")
        if not path or "://" in link or link.startswith("mailto:"):
            return link
        found = posixpath.normpath(posixpath.join(folder, path))
        if found.startswith("..") or not (ROOT / found).exists():
            log.warning(f"{_in_repository(page.file)} links to {link}, which does not exist")
            return link
        for name in (found, f"{found}/README.md"):
            if on_site := files.get_file_from_path(name.removeprefix("docs/")):
                return posixpath.relpath(on_site.src_uri, posixpath.dirname(source) or ".") + hash_ + anchor
        return f"{REPOSITORY}/blob/main/{found}{hash_}{anchor}" if REPOSITORY else None

    def image(match: re.Match[str]) -> str:
        return f"{match[1]}]({target(match[2])})"

    def part(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        text, link = IMAGES.sub(image, match[1]), target(match[2])
        return f"[{text}]({link})" if link else text

    return IMAGES.sub(image, PARTS.sub(part, markdown))


def _in_repository(file: File) -> str:
    """Return the path of a page's source in the repository."""
    return Path(str(file.abs_src_path)).resolve().relative_to(ROOT).as_posix()
