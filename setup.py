"""What pyproject.toml cannot say: a wheel holds the published models, and a README whose links work on PyPI.

In a checkout the models lie in `model_cards/`, beside the packages, where an editable install uses them too. A wheel
has them as `zoo/model_cards`. ONNX files are left out: they are built from the weights. With ZOO_WITHOUT_WEIGHTS=1 the
wheel has no models, for a server whose ONNX files are built elsewhere.
"""

import os
import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARDS = Path("model_cards")
REPOSITORY: str = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["tool"]["deep-image-zoo"]["repository"]


def readme(repository: str) -> str:
    """Return the README with absolute links; as it is where the project has no address."""
    text = Path("README.md").read_text("utf-8")
    if not repository:
        return text
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{repository}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{repository}/blob/main/", text)


def urls(repository: str) -> dict[str, str]:
    """Return the project's URLs, all of which follow from that of its repository."""
    pages = {"Repository": "", "Issues": "/issues", "Changelog": "/blob/main/CHANGELOG.md", "Documentation": "#readme"}
    return {name: repository + path for name, path in pages.items()} if repository else {}


class BuildWithCards(build_py):  # type: ignore[misc]  # setuptools has no type annotations
    """Copies the published models into the package `zoo`."""

    def _cards(self) -> dict[Path, Path]:
        """The files of all published models, and where they go."""
        if os.environ.get("ZOO_WITHOUT_WEIGHTS"):
            return {}
        files = [path for path in sorted(CARDS.glob("*/*")) if path.suffix != ".onnx" and path.name[0] != "."]
        return {path: Path(self.build_lib, "zoo", path) for path in files}

    def run(self) -> None:
        """Build the packages, and copy the cards unless the install is editable."""
        super().run()
        if self.editable_mode:
            return
        # An earlier build may have left models that are not published any more.
        shutil.rmtree(Path(self.build_lib, "zoo", CARDS), ignore_errors=True)
        for source, target in self._cards().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List what `run` writes."""
        cards = [] if self.editable_mode else [str(target) for target in self._cards().values()]
        return [*super().get_outputs(include_bytecode), *cards]

    def get_source_files(self) -> list[str]:
        """List what a source distribution needs for it."""
        return [*super().get_source_files(), *map(str, self._cards())]


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildWithCards},
        long_description=readme(REPOSITORY),
        long_description_content_type="text/markdown",
        project_urls=urls(REPOSITORY),
    )
