"""Gradio is imported without writing to the folder that it is installed in.

With each class of a component it parses its source, renders a file of type hints for editors (`.pyi`), and compares it
with the one beside the source, which its package holds already. That is half of the time that `import gradio` takes
(1.7 of 3.7 s on one core of a Xeon), where nobody edits anything; and where a server may write there, several servers
rewrite the same files at once (https://github.com/gradio-app/gradio/issues/10121).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODULE = "gradio.component_meta"


class _WithoutTypeHints:
    """Finds `MODULE` as Python does, and replaces the function that writes the files before anything calls it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_replace(module: ModuleType) -> None:
                execute(module)
                module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]

            spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def write_no_type_hints() -> None:
    """Let an import of Gradio write no files; in vain if it is imported already."""
    if _WithoutTypeHints not in sys.meta_path:
        sys.meta_path.insert(0, _WithoutTypeHints)
