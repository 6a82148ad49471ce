"""Atomic writes, JSON files and digests."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces it when the block ends without an exception.

    A crash leaves the old file or the new one, never a part.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp and safetensors make files for the owner alone; give them a new file's usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Compute the digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileError(UserError):
    """A file of a run or a card that is missing or damaged."""


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run or a card.

    Raises:
        FileError: the file is missing, or damaged.
    """
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        raise FileError(f"{file.parent} has no {file.name}") from None
    except ValueError as error:
        raise FileError(f"{file} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise FileError(f"{file} is damaged: it holds no object")
    return found


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
