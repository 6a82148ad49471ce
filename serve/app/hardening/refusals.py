"""Errors of the app's functions that reach the client, with a status that Gradio has no place for."""

from __future__ import annotations

from contextvars import ContextVar

import gradio as gr

# The statuses of refused calls of the request that is being handled.
STATUSES: ContextVar[list[int]] = ContextVar("statuses")


def refusal(message: str, status: int = 400) -> gr.Error:
    """Build the error for a call that is refused. It is not logged: strangers would fill the log."""
    STATUSES.get([]).append(status)
    return gr.Error(message, print_exception=False)
