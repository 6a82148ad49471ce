"""What a command tells its user in one line, and its exit status then."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """What the user can mend; its message is one line."""


def exit_status(script: str, command: Callable[[], int]) -> int:
    """A command's own exit status; 2 for a UserError, 1 for an OSError, such as a full disk, each told in one line."""
    try:
        return command()
    except (UserError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
