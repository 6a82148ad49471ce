"""The folder that Gradio is installed in stays as it is."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROGRAM = """
import sys

opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
import serve.app.page
import gradio

assert gradio.Button.click  # what the files of type hints describe is there without them
assert any(name.endswith("gradio/__init__.py") or "gradio/__pycache__" in name for name in opened)
print([name for name in opened if name.endswith(".pyi")])
"""


def test_its_files_of_type_hints_are_neither_read_nor_written() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
