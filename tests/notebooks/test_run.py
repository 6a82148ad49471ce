"""The lessons run: in their short form, and with `slow` as they are stored, each in a kernel of its own."""

import os
from pathlib import Path

import nbformat
import pytest

from train.lessons import notebooks
from train.training.models import REPOSITORY

each_lesson = pytest.mark.parametrize("file", notebooks.files(), ids=lambda file: file.stem)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel with this checkout, without a GPU or a network, one thread, and its own caches."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    for name, value in {
        "PYTHONPATH": path,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)


def check(notebook: nbformat.NotebookNode) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # Every last expression shows something: a table, a plot or a value.
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_lessons_run_in_their_short_form() -> None:
    """One after another in one kernel, which forgets their names in between: half of their time is that of imports."""
    lessons = [nbformat.read(file, as_version=4) for file in notebooks.files()]
    cells = []
    for number, lesson in enumerate(lessons):
        for cell in lesson.cells:
            cell.id = f"{number}-{cell.id}"
        cells += [nbformat.v4.new_code_cell("%reset_selective -f ."), *lesson.cells]
    notebooks.run(nbformat.v4.new_notebook(cells=cells), short=True)
    for lesson in lessons:
        check(lesson)


@pytest.mark.slow
@each_lesson
def test_a_lesson_runs_as_it_is_stored(file: Path) -> None:
    """What it shows is as it was stored, but for numbers, which depend on the processor."""
    stored, found = nbformat.read(file, as_version=4), notebooks.execute(file)
    check(found)
    for before, after in zip(stored.cells, found.cells, strict=True):
        assert before.source == after.source
        kinds = [
            [(output.output_type, sorted(output.get("data", {}))) for output in cell.get("outputs", ())]
            for cell in (before, after)
        ]
        assert kinds[0] == kinds[1]
