"""What pyproject.toml cannot say: a wheel holds the published models, as `zoo/model_cards`.

In a checkout they lie in `model_cards/`, beside the packages, where an editable install uses them too. ONNX files are
left out: they are built from the weights.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARDS = Path("model_cards")


class BuildWithCards(build_py):  # type: ignore[misc]  # setuptools has no type annotations
    """Copies the published models into the package `zoo`."""

    def _cards(self) -> dict[Path, Path]:
        """The files of all published models, and where they go."""
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


setup(cmdclass={"build_py": BuildWithCards})
