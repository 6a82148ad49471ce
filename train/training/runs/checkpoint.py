"""States of a run that survive a kill, a full disk and damage: atomic writes, checked digests, the last two kept."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from train.files import sha256, why_unwritable

KEPT = 2
_MANIFEST = "manifest.json"
_PARTIAL = "partial-"


class CheckpointError(RuntimeError):
    """A state that cannot be written or read; its message is one line for the user."""


def save(accelerator: Accelerator, states: Path, step: int) -> None:
    """Save everything that the accelerator holds as `states/<step>`; all processes must call this together.

    Raises:
        CheckpointError: it cannot be written (a full disk, for example); earlier states are untouched.
    """
    target, partial = states / f"{step:08d}", states / f"{_PARTIAL}{step:08d}"
    if target.is_dir():
        return
    if accelerator.is_main_process:
        for leftover in states.glob(f"{_PARTIAL}*"):  # of a run that was killed while it wrote
            shutil.rmtree(leftover)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _seal(partial)
            partial.replace(target)
            _sync(states)
            for old in sorted(_complete(states))[:-KEPT]:
                shutil.rmtree(old)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises a RuntimeError where the disk is full
        reason = why_unwritable(states) or error  # while what was written still takes its space
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot save the state of step {step} in {states}: {reason}") from error
    accelerator.wait_for_everyone()


def load_newest(accelerator: Accelerator, states: Path) -> Path | None:
    """Load the newest undamaged state and return its folder; None where there is no state at all.

    Raises:
        CheckpointError: there are states, but every one is damaged.
    """
    folders = sorted(_complete(states), reverse=True)
    damaged: list[Path] = []
    for folder in folders:
        damage = _damage(folder)
        if damage is None:
            accelerator.load_state(str(folder))
            accelerator.wait_for_everyone()  # all have checked the damaged ones
            if accelerator.is_main_process:
                for useless in damaged:  # it would be in the way when the same step is saved again
                    shutil.rmtree(useless)
            accelerator.wait_for_everyone()
            return folder
        damaged.append(folder)
        accelerator.print(f"{folder} is damaged ({damage}): trying the state before it")
    if folders:
        raise CheckpointError(f"every state in {states} is damaged: delete {states.parent} and start again")
    return None


def _complete(states: Path) -> Iterator[Path]:
    return (path for path in states.glob("[0-9]*") if path.is_dir())


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MANIFEST:
            digests[str(path.relative_to(folder))] = sha256(path)
    return digests


def _seal(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
    (folder / _MANIFEST).write_text(json.dumps(_digests(folder), indent=1))
    _sync(folder / _MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(folder: Path) -> str | None:
    try:
        expected = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"{_MANIFEST}: {error}"
    found = _digests(folder)
    if found == expected:
        return None
    names = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{names[0]} is not what was written"
