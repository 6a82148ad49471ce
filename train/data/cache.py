"""A cache of decoded images on disk, bounded in size, beside the `datasets` library's own cache.

Decoding CIFAR-10's 50,000 training images takes 12.6 s on one core, reading them from here 0.2 s. The library's own
cache (`Dataset.map`) takes 27.7 s to fill and 0.8 to 2.7 s to read, and keeps a copy of every change of a folder for
ever. Here the least recently used files are removed once all of them exceed `MAX_BYTES`.

The cache is optional: where its folder cannot be written to, images are decoded on every run. Several processes may
use it at once: files appear whole or not at all, and one that disappears before it is read is a miss.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from train.files import atomic_write

# Of all files together. MNIST and CIFAR-10 take 240 MB; a larger split than this is not cached at all.
MAX_BYTES = 4 * 1024**3
logger = logging.getLogger(__name__)


def path(*identity: Any) -> Path:
    """The file of a decoded split.

    Args:
        identity: all that decides the arrays' content, as JSON types.
    """
    import datasets  # takes long to import, and only commands that read images need it

    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / "decoded" / f"{key}.npz"


def read(file: Path) -> dict[str, np.ndarray] | None:
    """Read a file's arrays by name and mark it as used; None where there is no file or it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            found = dict(arrays)
    except Exception:  # a damaged file raises nearly anything; `write` replaces it
        return None
    with suppress(OSError):  # a cache that cannot be written to, or a file that another process has just removed
        os.utime(file)
    return found


def write(file: Path, **arrays: np.ndarray) -> None:
    """Keep a split's arrays in a file, then remove the least recently used files beyond `MAX_BYTES`.

    A failure is logged and otherwise ignored.
    """
    if sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)
        _prune(file.parent)
    except OSError as error:
        logger.warning("decoded images are not cached, so the next run decodes them again: %s", error)


def _prune(folder: Path) -> None:
    """Remove the least recently used files, also those that a killed process left unfinished."""
    found = []
    for file in folder.iterdir():
        try:
            state = file.stat()
        except FileNotFoundError:  # another process has removed it
            continue
        found.append((state.st_mtime_ns, state.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= MAX_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size
