"""A limit on the bytes that visitors' uploads and the app's responses to them take on the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gradio import Blocks

from serve.app.hardening.gradio_internals import forget_files, own_files
from serve.app.hardening.private_folder import LOCK

# Bytes that the smallest file takes on a disk, and its folder.
BLOCK = 2 * 4096
KEPT = 256 * 2**20
# Requests after which the disk is checked even if they were small.
OFTEN = 256
# Deletions after which other requests get a turn.
TURN = 32


class UploadQuota:
    """Deletes the oldest files of a folder when they take too many bytes.

    Gradio deletes files by their age alone: within an hour a stranger could fill the disk. The page uses a file
    soon after it was made, so nothing needs the oldest files any more. The page's own files, such as its examples, are
    left alone.

    Args:
        page: the page whose files are limited.
        folder: where they are.
        most: bytes to keep. Between two checks the files may exceed it by an eighth.
    """

    def __init__(self, page: Blocks, folder: Path, most: int) -> None:
        self._page = page
        self._folder = folder
        self._most = most
        self._received = 0
        self._pruning = asyncio.Lock()

    def due(self, received: int) -> bool:
        """Count a request of `received` bytes; return whether it is time to `prune`."""
        self._received += received + self._most // (8 * OFTEN)
        if self._received < self._most // 8:
            return False
        self._received = 0
        return True

    async def prune(self) -> None:
        """Delete the oldest files beyond the limit."""
        async with self._pruning:
            files = await asyncio.to_thread(self._files)
            excess = sum(size for _, size, _ in files) - self._most
            for count, (_, size, path) in enumerate(files, 1):
                if excess <= 0:
                    break
                # On the event loop, as Gradio makes a file's folder and then moves the file there.
                delete(path, self._folder)
                excess -= size
                if count % TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.to_thread(forget_files, self._page)

    def _files(self) -> list[tuple[float, int, str]]:
        """List time, bytes on the disk and path of each file, oldest first."""
        own = own_files(self._page) | {str(self._folder / LOCK)}
        found = []
        for entry in _walk(self._folder):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if entry.path not in own:
                    found.append((status.st_ctime, max(status.st_size, BLOCK), entry.path))
        return sorted(found)


def delete(path: str, folder: Path) -> None:
    """Delete a file, and its own folder below `folder` if that is empty now."""
    Path(path).unlink(missing_ok=True)
    if Path(path).parent != folder:
        with suppress(OSError):
            Path(path).parent.rmdir()


def _walk(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry
