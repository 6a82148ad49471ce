"""Parts of the page that several tabs use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder

from serve.app.answer import Pixels, title
from serve.app.ask import ready
from serve.app.tables import running
from serve.engine.batching import Engine

STATIC = Path(__file__).parent / "static"
EXAMPLES = Path(__file__).parents[1] / "examples"
NOT_UPLOADED = "the picture has not been uploaded; /gradio_api/upload takes it"

# Every event of the page runs at once, without Gradio's queue; of the inputs that come while one runs, only the last
# counts.
LIVE: dict[str, Any] = {
    "queue": False,
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "api_visibility": "private",
}


@dataclass(frozen=True)
class Seen:
    """What a visitor last showed, prepared: uint8 pixels by dataset, and the dataset of the latest."""

    mnist: Pixels | None = None
    cifar10: Pixels | None = None
    latest: str = "mnist"

    def of(self, dataset: str) -> Pixels | None:
        return self.mnist if dataset == "mnist" else self.cifar10


def chooser(engine: Engine, dataset: str) -> gr.Dropdown:
    """Build a dropdown of the ready models of `dataset`, the most accurate first and chosen."""
    choices = [
        (title(model.name) + (f" · {running(model)}" if model.accuracy is not None else ""), model.name)
        for model in ready(engine, dataset)
    ]
    value = choices[0][1] if choices else None
    return gr.Dropdown(choices, value=value, label="Model and its test accuracy", interactive=True)


def html(value: str, elem_id: str) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)


def pad() -> gr.HTML:
    """Build the drawing pad; its value is a PNG as a data URL, or empty."""
    return gr.HTML(
        "",
        html_template=(STATIC / "pad.html").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "pad.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="pad",
    )


def refusal(message: str) -> gr.Error:
    """Build the error for a caller of the app's API. It is not logged: strangers would fill the log."""
    return gr.Error(message, print_exception=False)


def _path(payload: ImageData | None) -> str | None:
    """Take the path of an upload. Raises gr.Error for any other: it may be somebody's file, or a device without end."""
    if payload is None:
        return None
    path = Path(payload.path or "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise refusal(NOT_UPLOADED)
    return str(path)


def picture_input(label: str, elem_id: str) -> gr.Image:
    """Build a box to upload, paste or photograph; its value reaches Python as a path, undecoded."""
    box = gr.Image(
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        label=label,
        height=300,
        elem_id=elem_id,
        elem_classes="photo",
    )
    # Gradio would open the file itself, without the limits of serve.images.formats.
    box.preprocess = _path  # type: ignore[method-assign]
    return box
