"""The folder of a run: it is of one run, and one process at a time trains in it."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from train.data import reference
from train.errors import UserError
from train.files import FileError, read_json, write_json
from train.training import recipes

# How long to wait for another process that was told to stop to save its state and end.
LAST_SAVE_SECONDS = 60


class RunError(UserError):
    """A folder that this run cannot have."""


def name(title: str, recipe: str, seed: int) -> str:
    """What a run's folder is called: "my_net.mnist", "fast", 0 -> "my_net.mnist.fast.seed0"."""
    return f"{title}.{recipe}.seed{seed}"


def prepare(folder: Path, description: dict[str, Any], resume: bool, earlier: list[dict[str, Any]]) -> None:
    """Make the run folder, or see that the one to resume is of the same run.

    Args:
        earlier: what `repeat.earlier_runs` tells of the weights to start from; when a run is resumed, others may be
            published in their place.

    Raises:
        RunError: the folder holds another run, or one that nobody asked to resume.
    """
    file = folder / "args.json"
    if file.is_file():
        if not resume:
            raise RunError(
                f"{folder} holds a run already: add --resume to go on with it, or choose another --output-dir"
            )
        try:
            before = read_json(file)
            # Settings that an older version did not have were as they are by default, whatever the recipe has now.
            before["settings"] = recipes.as_settings(recipes.of_settings(before["settings"]))
        except FileError as error:
            raise RunError(f"cannot resume {folder}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot resume {folder}: {file} is damaged: {error!r}") from error
        for key, was, now in _differing(before, description):
            raise RunError(f"cannot resume {folder}: its {key} was {json.dumps(was)}, now it is {json.dumps(now)}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run: choose another --output-dir")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RunError(f"{folder} is a file: choose another --output-dir") from None
        write_json(file, {**description, "earlier": earlier})


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values of what differs; keys that an older version did not write are none."""
    for key, value in now.items():
        was = before.get(key, value)
        if key == "dataset" and reference.recorded(value).folder:
            continue  # the digest of the pictures tells; the folder may have another path now
        if key == "settings":
            yield from _differing(was, value)
        elif was != value and not (key == "pretrained" and was and value and _same_place(was, value)):
            yield key, was, value


def _same_place(first: str, second: str) -> bool:
    """Older versions wrote paths down as they were typed, also that of a run's weights; newer ones the run's, whole."""
    paths = [path.parent if path.name == "model.safetensors" else path for path in map(Path, (first, second))]
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others out of a run folder: two that save their states there delete each other's.

    Raises:
        RunError: another process trains there, and has not ended in the time that saving takes.
    """
    with (folder / "args.json").open("r+") as file:  # NFS locks what may be written
        end = time.monotonic() + LAST_SAVE_SECONDS
        told = False
        while not _locked(file):
            if time.monotonic() > end:
                raise RunError(f"another process trains in {folder}: wait for its end, or choose another --output-dir")
            if not told:
                print(f"Another process has {folder}: waiting for it to save and end", flush=True)
                told = True
            time.sleep(0.1)
        yield  # closing the file gives it free, as the end of the process does


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
