"""Errors that a command tells its user in one line, and their exit status."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake that the user can correct; its message is one line."""


def exit_status(script: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status: 2 for a UserError, 1 for an OSError, both printed in one line."""
    try:
        return command()
    except (UserError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
