"""Errors that a command tells its user in one line, and their exit status."""

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(ValueError):
    """A mistake that the user can correct; its message is one line."""


def program(script: str, launcher: str = "python") -> str:
    """Return what the user called a command by: `deep-image-zoo COMMAND`, or `python train/SCRIPT`."""
    caller = Path(sys.argv[0]).stem
    return f"{caller} {Path(script).stem}" if caller == "deep-image-zoo" else f"{launcher} train/{script}"


def exit_status(script: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status; an error is printed in one line.

    The status is 2 for a UserError, 1 for an OSError, 130 for Ctrl-C.
    """
    try:
        return command()
    except (UserError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"{script}: stopped", file=sys.stderr)
        return 130
