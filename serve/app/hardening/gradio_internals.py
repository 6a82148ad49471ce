"""Uses of Gradio's private interfaces, with their reasons; more are in event_queue.py, and none outside this folder.

Gradio may change these in any minor release, so pyproject.toml bounds its version to those that the tests ran with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils, route_utils
from gradio.data_classes import ImageData
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FileUploadProgress
from gradio.utils import LRUCache, get_upload_folder
from starlette.requests import Request
from starlette.routing import Mount

from serve.app.hardening.refusals import refusal
from serve.errors import BadRequest

NOT_UPLOADED = "the picture is not an upload of this server; send it to /gradio_api/upload first"
# How many uploads' progress is kept.
UPLOADS = 100


def mounted_application(app: FastAPI) -> gr.routes.App:
    """Find the Gradio application that `gr.mount_gradio_app` put into `app`, which returns `app` alone."""
    (found,) = (route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, gr.routes.App))
    return found


def use_relative_addresses() -> None:
    """Let the page and its files have addresses without scheme, host and port.

    Gradio builds absolute ones from the header Host, in which a proxy may have left out the port, or put its own name
    for this server. Its page accepts relative ones; a client that reads /config takes the address it has called if
    there is none. Replaced for the whole process.
    """

    def relative(request: Request, route_path: str, *_: Any, **__: Any) -> str:
        return "" if route_path == "/config" else str(request.scope.get("root_path", ""))

    gr.route_utils.get_root_url = relative


def refuse_quietly(page: gr.Blocks) -> None:
    """Answer a call that cannot be made with what is wrong; Gradio would log a traceback for each.

    Its data do not fit, or the event is one that only the browser handles.
    """
    preprocess = page.preprocess_data

    async def checked(function: Any, *arguments: Any, **options: Any) -> Any:
        if not (page.fns[function] if isinstance(function, int) else function).fn:
            raise refusal("this event has no function on the server")
        try:
            return await preprocess(function, *arguments, **options)
        except (gr.Error, OSError, MemoryError):  # the last two are not the client's mistakes
            raise
        except Exception as error:
            raise refusal(invalid_call(error)) from None

    page.preprocess_data = checked  # type: ignore[method-assign, assignment]


def invalid_call(error: Exception) -> str:
    """Phrase what to tell a client whose data made Gradio fail."""
    return f"the call is not valid: {type(error).__name__}: {error}"[:300]


_check_allowed = processing_utils._check_allowed


async def _refuse_download(*_: Any, **__: Any) -> NoReturn:
    raise refusal("this server fetches nothing from other servers; send the picture to /gradio_api/upload")


def _check_upload(path: str | Path, check_in_upload_folder: bool) -> None:
    try:
        _check_allowed(path, check_in_upload_folder)
    except InvalidPathError:
        raise refusal(NOT_UPLOADED) from None


def accept_only_uploads(page: gr.Blocks) -> None:
    """Let calls name uploaded files alone, in any of their values.

    - A file that a call names is checked only if `has_launched` is set, and mounting the page does not set it: without
      it a call could name any file on the machine.
    - Gradio fetches a file that is named by a URL, unless its address is private. No option turns that off.
    - It logs a traceback for a file that is not allowed.

    The functions of `processing_utils` are replaced for the whole process.
    """
    page.has_launched = True
    processing_utils.async_ssrf_protected_download = _refuse_download
    processing_utils._check_allowed = _check_upload


def uploaded(path: str | None) -> str:
    """Return the path of an upload of this server. Raises ApiError for any other: 400."""
    found = Path(path or "").resolve()
    if not found.is_relative_to(Path(get_upload_folder()).resolve()) or not found.is_file():
        raise BadRequest(NOT_UPLOADED)
    return str(found)


def _upload_path(payload: ImageData | None) -> str | None:
    try:
        return None if payload is None else uploaded(payload.path)
    except BadRequest as error:
        raise refusal(error.message) from None


def leave_undecoded(image: gr.Image) -> gr.Image:
    """Make the value of `image` in Python the path of the upload, as it came.

    Gradio would open the file itself, without the limits of serve.images.formats.
    """
    image.preprocess = _upload_path  # type: ignore[method-assign]
    return image


def accept_any_choice() -> None:
    """Let dropdowns and radio buttons have any text as their value; all else is None.

    Gradio refuses a value that is not among the choices it remembers for the session. After a restart, or on another
    server behind the same address, it remembers none of what an open page shows. The methods are replaced for the whole
    process: Gradio makes new components whenever choices change.
    """

    def text(_: Any, payload: Any) -> str | None:
        return payload if isinstance(payload, str) else None

    gr.Dropdown.preprocess = text  # type: ignore[method-assign, assignment]
    gr.Radio.preprocess = text  # type: ignore[method-assign, assignment]


def own_files(page: gr.Blocks) -> set[str]:
    """Return the paths of the page's own files, such as its examples."""
    return {str(name) for block in page.blocks.values() for name in getattr(block, "keep_in_cache", ())}


def forget_files(page: gr.Blocks) -> None:
    """Remove the files that no longer exist from the sets in which Gradio keeps their names."""
    for names in page.temp_file_sets:
        # Copied, since requests may add to the sets meanwhile.
        names.difference_update([name for name in tuple(names) if not Path(name).exists()])


_unfinished: ContextVar[list[str]] = ContextVar("unfinished")


def _named_temporary_file(**options: Any) -> Any:
    file = NamedTemporaryFile(**options)  # noqa: SIM115 - Gradio closes it
    _unfinished.get([]).append(file.name)
    return file


@contextmanager
def unfinished_uploads() -> Iterator[None]:
    """Delete what a form leaves: Gradio keeps the files of fields it does not know, and of a form without its end."""
    names: list[str] = []
    token = _unfinished.set(names)
    try:
        yield
    finally:
        _unfinished.reset(token)
        for name in names:  # those of complete files have been moved
            Path(name).unlink(missing_ok=True)


class _Signals(LRUCache[str, asyncio.Event]):
    def __missing__(self, upload: str) -> asyncio.Event:
        self[upload] = event = asyncio.Event()
        return event


class _UploadProgress(FileUploadProgress):
    """The progress of uploads. Gradio would keep the names of all uploads, also of those that never come."""

    def __init__(self) -> None:
        super().__init__()
        self._statuses = LRUCache(UPLOADS)
        self._signals = _Signals(UPLOADS)  # type: ignore[assignment]


def bound_uploads() -> None:
    """Bound what Gradio keeps about uploads. The functions are replaced for the whole process."""
    gr.routes.file_upload_statuses = _UploadProgress()
    route_utils.NamedTemporaryFile = _named_temporary_file  # type: ignore[assignment, attr-defined]
