"""A limit on the bytes that visitors' uploads and the app's responses to them take on the disk."""

import threading
from pathlib import Path

from gradio import Blocks

from serve.app.gradio_internals import temporary_files

# Bytes that the smallest file takes on a disk.
BLOCK = 4096
KEPT = 256 * 2**20
# Requests after which the disk is checked even if they were small.
OFTEN = 256


class UploadQuota:
    """Deletes a page's oldest files when they take too many bytes.

    Gradio deletes files by their age alone: within an hour a stranger could fill the disk. The page uses a file
    soon after it was made, so nothing needs the oldest files any more.

    Args:
        page: the page whose files are limited.
        most: bytes to keep. Between two checks the files may exceed it by an eighth.
    """

    def __init__(self, page: Blocks, most: int) -> None:
        self._page = page
        self._most = most
        self._received = 0
        self._lock = threading.Lock()

    def due(self, received: int) -> bool:
        """Count a request of `received` bytes; return whether it is time to `prune`."""
        self._received += received + self._most // (8 * OFTEN)
        if self._received < self._most // 8:
            return False
        self._received = 0
        return True

    def prune(self) -> None:
        """Delete the oldest files beyond the limit."""
        with self._lock:
            found = temporary_files(self._page)
            dated = []
            for name, names in found.items():
                try:
                    status = Path(name).stat()
                except FileNotFoundError:
                    names.discard(name)
                    continue
                dated.append((status.st_ctime, max(status.st_size, BLOCK), name))
            excess = sum(size for _, size, _ in dated) - self._most
            for _, size, name in sorted(dated):
                if excess <= 0:
                    break
                Path(name).unlink(missing_ok=True)
                found[name].discard(name)
                excess -= size
