"""What the app says when there is no answer."""

from __future__ import annotations

from serve.app.hardening.refusals import refusal
from serve.app.html.results import message
from serve.errors import ApiError, BadImage
from serve.images.formats import READERS

# What passes by itself: an overload, models that still load, a result that comes too late.
PASSING = frozenset((503, 504))


def failure(error: ApiError) -> str:
    """Build the panel for a call that failed.

    Raises:
        gr.Error: if the failure passes. The call then fails as a whole, and the page's script sends it again.
    """
    if error.status in PASSING:
        raise refusal(error.message, error.status) from error
    return message(plain(error))


def plain(error: ApiError) -> str:
    """Say what is wrong to somebody who has chosen a file; the API's own messages are for programs."""
    if not isinstance(error, BadImage):
        return f"{error.message}."
    if error.status == 415:
        return f"This file is not a picture that can be read here. {_listed(list(READERS))} can."
    if error.status == 413:
        return f"{error.message.replace('the image', 'this picture')}. A smaller copy of it will do."
    return "This picture is damaged, or not complete. Please choose another."


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
