"""Gradio components that several tabs use, and what a visitor's session remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from serve.app.hardening.gradio_internals import leave_undecoded
from serve.app.inference import Pixels, ready_models
from serve.app.result_html import title
from serve.app.table_html import served_accuracy
from serve.engine.batching import Engine

STATIC = Path(__file__).parent / "static"

# Options of the page's events: they run at once, without Gradio's queue, and of the inputs that come while one runs,
# only the last counts.
LIVE: dict[str, Any] = {
    "queue": False,
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "api_visibility": "private",
}
# For events that take long enough to show progress.
SLOW: dict[str, Any] = {**LIVE, "show_progress": "minimal"}


@dataclass(frozen=True)
class LastInputs:
    """A visitor's last inputs: prepared uint8 pixels [H, W, C] by dataset, and the dataset of the latest."""

    mnist: Pixels | None = None
    cifar10: Pixels | None = None
    latest: str = "mnist"

    def of(self, dataset: str) -> Pixels | None:
        """Return the last input for models of `dataset`."""
        return self.mnist if dataset == "mnist" else self.cifar10


def chooser(engine: Engine, dataset: str) -> gr.Dropdown:
    """Build a dropdown of the ready models of `dataset`, most accurate first; the first is chosen."""
    choices = [
        (title(model.name) + (f" · {served_accuracy(model)}" if model.accuracy is not None else ""), model.name)
        for model in ready_models(engine, dataset)
    ]
    value = choices[0][1] if choices else None
    return gr.Dropdown(choices, value=value, label="Model and its test accuracy", interactive=True)


def html(value: str, elem_id: str) -> gr.HTML:
    """Build a place for HTML that the app writes."""
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)


def drawing_pad() -> gr.HTML:
    """Build the drawing pad; its value is its strokes as JSON (see `images.strokes`), or empty."""
    return gr.HTML(
        "",
        html_template=(STATIC / "pad.html").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "pad.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="pad",
    )


def image_input(label: str, elem_id: str) -> gr.Image:
    """Build a box to upload, paste or photograph an image; its value is the path of the upload, undecoded."""
    return leave_undecoded(
        gr.Image(
            type="filepath",
            sources=["upload", "webcam", "clipboard"],
            label=label,
            height=300,
            elem_id=elem_id,
            elem_classes="photo",
        )
    )
