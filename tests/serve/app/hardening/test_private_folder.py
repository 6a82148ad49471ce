"""The folder of visitors' files: nobody else's, and gone when the server is gone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.app.hardening.private_folder import PREFIX, claim, release, remove_abandoned

ROOT = Path(__file__).parents[4]
# What a server does first, as far as its folder is concerned.
PROGRAM = "import os, serve.app; print(os.environ['GRADIO_TEMP_DIR'], flush=True); input()"

pytestmark = pytest.mark.xdist_group("serve")


@contextmanager
def process(base: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process of the app, and its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "GRADIO_TEMP_DIR": str(base)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            yield running, Path(running.stdout.readline().strip())
        finally:
            running.kill()


def test_a_folder_is_private_and_goes_with_its_process(tmp_path: Path) -> None:
    with process(tmp_path / "base") as (running, folder):
        assert folder.parent == tmp_path / "base"
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "visitor").mkdir()
        (folder / "visitor" / "picture.png").touch()
        running.communicate("\n")
    assert list((tmp_path / "base").iterdir()) == []


def test_the_next_server_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """But not the folder of one that runs, nor anything else."""
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "other")
    (tmp_path / f"{PREFIX}file").touch()
    with process(tmp_path) as (_, first), process(tmp_path) as (second_process, second):
        (second / "visitor").mkdir()
        (second / "visitor" / "picture.png").touch()
        second_process.kill()
        second_process.wait()
        assert second.exists()
        with process(tmp_path) as (_, third):
            left = {first, third, tmp_path / "other", tmp_path / f"{PREFIX}link", tmp_path / f"{PREFIX}file"}
            assert set(tmp_path.iterdir()) == left


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix users")
def test_the_folders_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{PREFIX}theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}theirs"]


def test_a_folder_that_another_server_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts may find a new folder before it is locked."""
    real = tempfile.mkdtemp
    made: list[Path] = []

    def mkdtemp(**options: Any) -> str:
        made.append(Path(real(**options)))
        if len(made) == 1:
            remove_abandoned(tmp_path)
            assert not made[0].exists()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    folder = claim()
    assert [folder] == made[1:]
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o700
    release()
    assert not folder.exists()


def test_without_a_place_for_it_the_server_says_what_to_set(running: Any, tiny: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "models" / "model").write()
    (tmp_path / "file").touch()
    environment = {"GRADIO_TEMP_DIR": str(tmp_path / "file" / "folder")}
    with running("--models", tmp_path / "models", environment=environment) as server:
        status, errors = server.stop()
    assert status == 1
    assert errors.count("\n") == 1
    for part in (str(tmp_path / "file"), "GRADIO_TEMP_DIR", "--no-app"):
        assert part in errors
    with running("--models", tmp_path / "models", "--no-app", environment=environment) as server:
        assert server.stop()[0] == 0
