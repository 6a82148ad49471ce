"""Files that a crash leaves old or new, never half, and their digests."""

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
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends without an exception."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        # What mkstemp makes, and what safetensors writes, is the owner's alone; these are to be read like any other.
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileError(UserError):
    """A file of a run or a card that is missing or damaged."""


def read_json(file: Path) -> dict[str, Any]:
    """What a run or a card says of itself.

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
    with replacing(path) as aside:
        aside.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
