"""The folder for visitors' files: private to this process, and removed when it has ended, however it ended."""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "deep-image-zoo-"
# A server holds the lock on this file in its folder. The system gives it up when the process ends, even by SIGKILL.
LOCK = "in-use"

_claimed: list[tuple[Path, FileLock]] = []


def claim() -> Path:
    """Make a folder for this process, mode 0700, and remove the folders of servers that have ended.

    It lies in GRADIO_TEMP_DIR if that is set, otherwise in the system's temporary folder.

    Raises:
        SystemExit: If it cannot be made, with one line that says what to set.
    """
    base = os.environ.get("GRADIO_TEMP_DIR")
    try:
        base = base or tempfile.gettempdir()
        Path(base).mkdir(parents=True, exist_ok=True)
        remove_abandoned(Path(base))
        folder, lock = _make(Path(base))
    except OSError as error:
        # Without a base, the error lists the folders that were tried.
        place = f" in {base}" if base else ""
        raise SystemExit(
            f"the app cannot make a folder for uploads{place}: {error.strerror or error}; set the variable "
            "GRADIO_TEMP_DIR to a folder that can be written, or serve without the app: --no-app"
        ) from None
    _claimed.append((folder, lock))
    atexit.register(release)
    return folder


def release() -> None:
    """Remove this process's folder. It happens at exit by itself, except before `os._exit`."""
    while _claimed:
        remove(*_claimed.pop())


def remove_abandoned(base: Path) -> None:
    """Remove the folders below `base` whose servers have ended. Other users' folders are left alone."""
    for folder in base.glob(f"{PREFIX}*"):
        try:
            status = folder.lstat()
        except FileNotFoundError:  # another server that starts has removed it
            continue
        if folder.is_symlink() or not folder.is_dir() or not _is_ours(status):
            continue
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            continue
        remove(folder, lock)


def remove(folder: Path, lock: FileLock) -> None:
    """Remove a folder whose lock is held, and release the lock."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    lock.release()  # before its file goes: Windows deletes no open file
    shutil.rmtree(folder, ignore_errors=True)


def _make(base: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # A server that starts at this moment may take the folder for an abandoned one. Then this tries another.
        with suppress(Timeout, FileNotFoundError):
            made = folder.stat()
            lock = FileLock(folder / LOCK)
            lock.acquire(blocking=False)  # makes the folder if it is gone
            if os.path.samestat(made, folder.stat()):
                return folder, lock
            remove(folder, lock)


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
