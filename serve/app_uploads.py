"""Visitors' pictures on the disk, and the app's answers to them: not more than so many bytes of them."""

import os
import threading
from pathlib import Path

from gradio import Blocks

# What the smallest file takes on a disk.
BLOCK = 4096
KEPT = 256 * 2**20
# Requests after which it is looked at the disk again.
OFTEN = 256


class Uploads:
    """Deletes the oldest of a page's files where they are too many. Gradio does it by their age alone, after an hour,
    in which a stranger could fill the disk; by then the page has long shown what it asked for.

    Args:
        most: bytes to keep at the most. What has come since it was last looked adds up to an eighth.
    """

    def __init__(self, blocks: Blocks, most: int) -> None:
        self._blocks = blocks
        self._most = most
        self._came = 0
        self._lock = threading.Lock()

    def due(self, came: int) -> bool:
        """Whether it is time to `prune` now that a request of `came` bytes has been answered."""
        self._came += came + self._most // (8 * OFTEN)
        if self._came < self._most // 8:
            return False
        self._came = 0
        return True

    def prune(self) -> None:
        """Deletes the oldest files beyond `most` bytes."""
        with self._lock:
            kept = {name for block in self._blocks.blocks.values() for name in getattr(block, "keep_in_cache", ())}
            # Copied, as requests add to the sets meanwhile.
            found = {name: files for files in self._blocks.temp_file_sets for name in set(files) - kept}
            dated = []
            for name, files in found.items():
                try:
                    status = os.stat(name)
                except FileNotFoundError:
                    files.discard(name)
                    continue
                dated.append((status.st_ctime, max(status.st_size, BLOCK), name))
            over = sum(size for _, size, _ in dated) - self._most
            for _, size, name in sorted(dated):
                if over <= 0:
                    break
                Path(name).unlink(missing_ok=True)
                found[name].discard(name)
                over -= size
