"""Every use of Gradio's private interfaces, with its reason; the rest of the app keeps to the public ones.

Gradio may change these in any minor release, so pyproject.toml bounds its version to those that the tests ran with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.exceptions import InvalidPathError
from gradio.utils import get_upload_folder
from starlette.routing import Mount

NOT_UPLOADED = "the picture is not an upload of this server; send it to /gradio_api/upload first"


def refusal(message: str) -> gr.Error:
    """Build the error for a client's mistake. It is not logged: strangers would fill the log."""
    return gr.Error(message, print_exception=False)


def mounted_application(app: FastAPI) -> gr.routes.App:
    """Find the Gradio application that `gr.mount_gradio_app` put into `app`, which returns `app` alone."""
    (found,) = (route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, gr.routes.App))
    return found


def poll_less_often(page: gr.Blocks) -> None:
    """Let an idle page cost no processor time.

    Gradio looks into its queue a thousand times a second, and for progress a hundred times: 3 % of a core. This app's
    events bypass the queue.
    """
    queue = page._queue
    queue.sleep_when_free, queue.progress_update_sleep_when_free = 0.05, 0.5


def refuse_quietly(page: gr.Blocks) -> None:
    """Answer a call whose data do not fit with what is wrong; Gradio would log a traceback for each."""
    preprocess = page.preprocess_data

    async def checked(*arguments: Any, **options: Any) -> Any:
        try:
            return await preprocess(*arguments, **options)
        except (gr.Error, OSError, MemoryError):  # the last two are not the client's mistakes
            raise
        except Exception as error:
            raise refusal(invalid_call(error)) from None

    page.preprocess_data = checked  # type: ignore[method-assign]


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


def _upload_path(payload: ImageData | None) -> str | None:
    if payload is None:
        return None
    path = Path(payload.path or "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise refusal(NOT_UPLOADED)
    return str(path)


def leave_undecoded(image: gr.Image) -> gr.Image:
    """Make the value of `image` in Python the path of the upload, as it came.

    Gradio would open the file itself, without the limits of serve.images.formats.
    """
    image.preprocess = _upload_path  # type: ignore[method-assign]
    return image


def temporary_files(page: gr.Blocks) -> dict[str, set[str]]:
    """Map the files of visitors on the disk to the sets in which Gradio keeps their names.

    Gradio's `delete_cache` goes by their age, not by their size (its issue 8098 asks for a better rule). The page's own
    files, such as its examples, are not among them.
    """
    own = {name for block in page.blocks.values() for name in getattr(block, "keep_in_cache", ())}
    # Copied, since requests may add to the sets meanwhile.
    return {name: names for names in page.temp_file_sets for name in set(names) - own}
