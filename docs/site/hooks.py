"""What MkDocs cannot do by itself: pages from outside docs/, notebooks, and links that work on GitHub and on the site.

A link in a page names a file of the repository, as GitHub takes it. Here it becomes a link to the page made from that
file; else to the file in the repository, where pyproject.toml has its address; else it is the text alone. A file that
does not exist is a warning, which ends a strict build.
"""

import base64
import json
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("README.md", "REPORT.md", "CONTRIBUTING.md", "CHANGELOG.md")
ICON = "serve/app/static/icon.svg"
REPOSITORY: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["deep-image-zoo"]["repository"]
IMAGE = r"!\[[^\[\]]*\]\([^()\s]+\)"
IMAGES = re.compile(r"!\[([^\[\]]*)\]\(([^()\s]+)\)")
# Code is left as it is: a fenced block, a span between backticks. Else a link, whose text may hold images, or an image.
PARTS = re.compile(
    rf"^ *```.*?^ *```|(?<!!)\[((?:[^\[\]]|{IMAGE}|\[[^\[\]]*\])*)\]\(([^()\s]+)\)|{IMAGE}|`[^`\n]+`",
    re.MULTILINE | re.DOTALL,
)

log = get_plugin_logger(__name__)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the repository's address where there is one, and the lessons to the navigation."""
    config.repo_url = REPOSITORY or None
    lessons = [f"notebooks/{path.stem}.md" for path in _notebooks()]
    if lessons and config.nav:
        overview = ["lessons.md"] if (ROOT / "docs" / "lessons.md").is_file() else []
        sections = [next(iter(section)) for section in config.nav]
        config.nav.insert(sections.index("Train"), {"Lessons": overview + lessons})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root, the model cards with their images, the notebooks, and the icon."""
    cards = sorted(path for path in (ROOT / "model_cards").glob("*/*") if path.suffix in (".md", ".png"))
    for name in (*ROOT_PAGES, ICON, *(path.relative_to(ROOT).as_posix() for path in cards)):
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in _notebooks():
        text, images = from_notebook(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
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
        for name in (found, f"{found}/README.md", re.sub(r"\.ipynb$", ".md", found)):
            if on_site := files.get_file_from_path(name.removeprefix("docs/")):
                return posixpath.relpath(on_site.src_uri, posixpath.dirname(source) or ".") + hash_ + anchor
        if found.startswith("..") or not (ROOT / found).exists():
            log.warning(f"{_in_repository(page.file)} links to {link}, which does not exist")
            return link
        return f"{REPOSITORY}/blob/main/{found}{hash_}{anchor}" if REPOSITORY else None

    def image(match: re.Match[str]) -> str:
        # The site shows nothing from elsewhere, such as badges: only what they say.
        return match[1] if "://" in match[2] else f"![{match[1]}]({target(match[2])})"

    def part(match: re.Match[str]) -> str:
        if match[0].startswith("!"):
            return IMAGES.sub(image, match[0])
        if match[2] is None:
            return match[0]
        text, link = IMAGES.sub(image, match[1]), target(match[2])
        return f"[{text}]({link})" if link else text

    return PARTS.sub(part, markdown)


def from_notebook(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Convert a notebook to a page: its text, its code, and the outputs that are stored in it.

    Returns:
        Its Markdown, and the images that this shows by their file names.
    """
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    images: dict[str, bytes] = {}
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(f"```python\n{source}\n```")
            parts.extend(_outputs(cell["outputs"], notebook.stem, images))
    return "\n\n".join(parts) + "\n", images


def _outputs(outputs: list[dict[str, Any]], stem: str, images: dict[str, bytes]) -> Iterator[str]:
    """Yield the Markdown of a cell's outputs, the richest form of each; add their images."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}-{len(images) + 1}.png"
            images[name] = base64.b64decode("".join(data["image/png"]))
            yield f"![Output]({name})"
        elif "text/markdown" in data:
            yield "".join(data["text/markdown"])
        elif text := "".join(output.get("text") or data.get("text/plain") or []).strip("\n"):
            yield f"```text\n{text}\n```"


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _in_repository(file: File) -> str:
    """Return the path of a page's source in the repository."""
    if file.generated_by:
        return posixpath.splitext(file.src_uri)[0] + ".ipynb"
    return Path(str(file.abs_src_path)).resolve().relative_to(ROOT).as_posix()
