"""The folder of a run: it belongs to one run, and one process at a time trains in it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from train import records
from train.data import manifest
from train.data.manifest import Row
from train.errors import UserError
from train.files import FileError
from train.records import RunDescription
from train.training import recipes

# How long to wait for another process that was told to stop to save its state and end.
LAST_SAVE_SECONDS = 60
LOCK = ".lock"
# Keys of `args.json` that follow from the images.
_OF_IMAGES = ("class_names", "in_chans", "train_images", "data_sha256")
# Keys of `args.json` that older versions did not write.
_UNKNOWN_IN_OLDER_RUNS = ("in_chans", "train_images", "data_sha256")


class RunError(UserError):
    """A folder that this run cannot use."""


def name(title: str, recipe: str, seed: int) -> str:
    """Name a run's folder: "my_net.mnist", "fast", 0 -> "my_net.mnist.fast.seed0"."""
    return f"{title}.{recipe}.seed{seed}"


@contextmanager
def claimed(folder: Path, description: RunDescription, resume: bool, files: Sequence[Row] = ()) -> Iterator[None]:
    """Make the folder of a run, or check that it holds this run, and keep other processes out during the block.

    Args:
        folder: to make or to check.
        description: of the run.
        resume: whether a run that it holds is to be gone on with.
        files: the images of the run; none where the dataset's name tells them.

    Raises:
        RunError: it holds another run, or one that is not to be resumed, or another process trains there.
    """
    check(folder, description, resume, files)  # before waiting, which would not help
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"{folder} is a file: choose another --output-dir") from None
    with alone(folder):
        check(folder, description, resume, files)  # another process may have begun a run there in the meantime
        if not (folder / "args.json").is_file():
            if files:
                manifest.write(files, folder / manifest.FILE)
            records.write(description, folder / "args.json")
        yield


def check(folder: Path, description: RunDescription, resume: bool, files: Sequence[Row] = ()) -> None:
    """Check that a run can use a folder: it is new or empty, or holds the same run, which is to be resumed.

    Args: see `claimed`.

    Raises:
        RunError: it cannot.
    """
    file = folder / "args.json"
    if file.is_file():
        if not resume:
            raise RunError(
                f"{folder} holds a run already: add --resume to go on with it, or choose another --output-dir"
            )
        try:
            before = records.as_dict(records.read(RunDescription, file))
            # Settings that an older version did not have were the defaults, whatever the recipe has now.
            before["settings"] = recipes.as_settings(recipes.of_settings(before["settings"], file))
            saw = manifest.read(folder / manifest.FILE) if (folder / manifest.FILE).is_file() else None
        except FileError as error:
            raise RunError(f"cannot resume {folder}: {error}") from error
        for key, was, now in _differences(before, records.as_dict(description)):
            if key in _OF_IMAGES and saw is not None:
                changed = manifest.difference(saw, files) or "files were renamed, which changes their order"
                raise RunError(f"cannot resume {folder}: the images are not those that the run saw: {changed}")
            raise RunError(f"cannot resume {folder}: its {key} was {json.dumps(was)}, now it is {json.dumps(now)}")
    elif folder.is_dir() and not all(map(_is_leftover, folder.iterdir())):
        raise RunError(f"{folder} is not empty and holds no run: choose another --output-dir")


def _is_leftover(path: Path) -> bool:
    """Tell whether a process that was killed while it made the folder left this file."""
    return path.name in (LOCK, manifest.FILE) or path.match(".args-*.json") or path.match(".files-*.csv")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key and both values of what differs between two runs."""
    for key, value in now.items():
        was = before[key]
        if key in ("earlier", "data_dir") or (key == "dataset" and Path(value).is_dir()):
            continue  # other weights may be published by now; a folder may have moved: the digest tells its images
        if key in _UNKNOWN_IN_OLDER_RUNS and was is None:
            continue
        if key == "settings":
            yield from _differences(was, value)
        elif was != value and not (key == "pretrained" and was and value and _same_place(was, value)):
            yield key, was, value


def _same_place(first: str, second: str) -> bool:
    """Compare paths of weights: older versions recorded them as typed, newer ones record the run's, absolute."""
    paths = [path.parent if path.name == "model.safetensors" else path for path in map(Path, (first, second))]
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder: two that save states there delete each other's.

    Raises:
        RunError: another process trains there, and did not end in the time that saving takes.
    """
    lock = FileLock(folder / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"Another process has {folder}: waiting for it to save and end", flush=True)
            lock.acquire(timeout=LAST_SAVE_SECONDS, poll_interval=0.1)
    except Timeout:
        raise RunError(
            f"another process trains in {folder}: wait for its end, or choose another --output-dir"
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is locked: a process that waits for it makes a new one
        lock.release()


def becomes_free(folder: Path, seconds: float) -> bool:
    """Wait until no process trains in a run folder; False where one still does after so many seconds."""
    if not (folder / LOCK).exists():
        return True
    try:
        with FileLock(folder / LOCK).acquire(timeout=seconds, poll_interval=0.1):
            (folder / LOCK).unlink(missing_ok=True)
    except Timeout:
        return False
    return True
