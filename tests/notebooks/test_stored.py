"""The lessons as they are stored: run from top to bottom, small, clean, with links that lead somewhere."""

import ast
import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

from train.lessons import notebooks

LESSONS = notebooks.files()
LARGEST = 410_000  # bytes
# What a lesson may import: the field's libraries, the standard library's small change, and this project.
OTHERS = {
    "collections", "dataclasses", "importlib", "json", "matplotlib", "numpy", "onnx", "pathlib", "shutil", "sys",
    "tempfile", "timm", "torch", "urllib",
}  # fmt: skip
OURS = {"serve", "train", "zoo"}
each_lesson = pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)


def read(file: Path) -> nbformat.NotebookNode:
    return nbformat.read(file, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def trees(notebook: nbformat.NotebookNode) -> list[ast.Module]:
    return [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in code(notebook)]


def test_there_are_six_lessons() -> None:
    assert [file.name.partition("-")[0] for file in LESSONS] == list("123456")


@each_lesson
def test_a_lesson_was_run_in_order_without_an_error_or_a_warning(file: Path) -> None:
    cells = code(read(file))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any(output.get("data", {}).get("image/png") for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


@each_lesson
def test_a_lesson_is_small_and_names_no_place_of_a_machine(file: Path) -> None:
    text = file.read_text()
    assert len(text.encode()) < LARGEST
    words = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|usr|var|work|Users|opt)\b", words)
    assert not re.search(r"\b0x[0-9a-f]{6}", words)  # an object's address, which differs from run to run


@each_lesson
def test_a_lesson_is_stored_as_the_command_stores_it(file: Path) -> None:
    """Its link and first cell follow from the project's address; no ids, times or widgets are left."""
    notebook = read(file)
    nbformat.validate(notebook)
    assert notebooks.as_text(notebooks.prepared(read(file), file)) == file.read_text()
    assert notebook.metadata == notebooks.METADATA


@each_lesson
def test_the_badge_opens_this_lesson_in_colab(file: Path) -> None:
    heading, _, link, *_ = read(file).cells[0].source.splitlines()
    assert heading.startswith(f"# Lesson {file.name[0]}: ")
    owner = notebooks.address().removeprefix("https://github.com/")
    assert link.endswith(f"](https://colab.research.google.com/github/{owner}/blob/main/notebooks/{file.name})")
    install = read(file).cells[1].source
    assert f"git+{notebooks.address()}" in install


def test_links_follow_from_the_projects_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "address", lambda: "https://github.com/someone/zoo")
    file = LESSONS[0]
    cells = notebooks.prepared(read(file), file).cells
    assert cells[0].source.count(notebooks.COLAB) == 2
    assert f"/github/someone/zoo/blob/main/notebooks/{file.name})" in cells[0].source
    assert '"deep-image-zoo[notebooks] @ git+https://github.com/someone/zoo"' in cells[1].source


@each_lesson
def test_a_lesson_calls_public_functions_and_defines_none(file: Path) -> None:
    for tree in trees(read(file)):
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)), ast.unparse(node)
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), ast.unparse(node)
            if isinstance(node, ast.ImportFrom):
                modules, names = [node.module or ""], [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                modules, names = [alias.name for alias in node.names], []
            else:
                continue
            assert {module.partition(".")[0] for module in modules} <= OURS | OTHERS, ast.unparse(node)
            assert not any(name.startswith("_") for name in [*names, *".".join(modules).split(".")])


@each_lesson
def test_links_to_other_lessons_lead_somewhere(file: Path) -> None:
    text = "\n".join(cell.source for cell in read(file).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert (file.parent / target).exists(), target


def test_what_a_front_end_leaves_is_removed() -> None:
    cell = nbformat.v4.new_code_cell("1 + 1", metadata={"execution": {"iopub.execute_input": "now"}, "tags": ["x"]})
    large = io.BytesIO()
    Image.effect_noise((200, 200), 60).convert("RGB").save(large, "PNG")
    plot = base64.b64encode(large.getvalue()).decode()
    data = {"image/png": plot, "text/plain": "<Figure size 200x200>"}
    cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata={"needs_background": "light"})]
    heading, first = nbformat.v4.new_markdown_cell("# Lesson 1: x\n\ntext"), nbformat.v4.new_code_cell("")
    metadata = {"widgets": {}, "colab": {}, "language_info": {"name": "python", "version": "3.11.7"}}
    stored = notebooks.prepared(
        nbformat.v4.new_notebook(cells=[heading, first, cell], metadata=metadata), Path("1-x.ipynb")
    )
    assert stored.metadata == notebooks.METADATA
    assert [cell.id for cell in stored.cells] == ["cell-00", "cell-01", "cell-02"]
    assert all(not cell.metadata for cell in stored.cells)
    (output,) = stored.cells[2].outputs
    assert not output.metadata
    smaller = base64.b64decode(output.data["image/png"])
    assert len(smaller) < len(large.getvalue())
    with Image.open(io.BytesIO(smaller)) as image:
        assert image.size == (200, 200)


def test_unknown_lessons_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["7"]) == 2
    assert "unknown lesson '7': valid are 1-" in capsys.readouterr().err


def test_the_command_stores_what_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "1-x.ipynb"
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    file.write_text("{}")
    monkeypatch.setattr(notebooks, "execute", lambda chosen: SimpleNamespace(name=chosen.name))
    monkeypatch.setattr(notebooks, "as_text", lambda notebook: f"ran {notebook.name}")
    assert notebooks.main(["1"]) == 0
    assert file.read_text() == "ran 1-x.ipynb"
