"""Visitors' pictures on the disk, and the app's answers to them: a limit on their bytes."""

import os
import threading
from pathlib import Path

from gradio import Blocks

# Bytes that the smallest file takes on a disk.
BLOCK = 4096
KEPT = 256 * 2**20
# Requests after which the disk is checked again.
OFTEN = 256


class Uploads:
    """Deletes the oldest of a page's files where there are too many.

    Gradio goes by their age alone: within an hour a stranger could fill the disk. The page shows what it asked for long
    before its files are the oldest.

    Args:
        most: bytes to keep. Between two checks they may exceed it by an eighth.
    """

    def __init__(self, blocks: Blocks, most: int) -> None:
        self._blocks = blocks
        self._most = most
        self._came = 0
        self._lock = threading.Lock()

    def due(self, came: int) -> bool:
        """Tell whether it is time to `prune`, now that a request of `came` bytes has been answered."""
        self._came += came + self._most // (8 * OFTEN)
        if self._came < self._most // 8:
            return False
        self._came = 0
        return True

    def prune(self) -> None:
        """Delete the oldest files beyond `most` bytes."""
        with self._lock:
            kept = {name for block in self._blocks.blocks.values() for name in getattr(block, "keep_in_cache", ())}
            # Copied, as requests may add to the sets meanwhile.
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
