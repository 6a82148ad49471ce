"""Gradio components that several tabs use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from serve.app.hardening.gradio_internals import leave_undecoded
from serve.app.html.results import title
from serve.app.html.tables import served_accuracy
from serve.app.inference import Kind, dataset_of, ready_models
from serve.engine.batching import Engine

STATIC = Path(__file__).parents[1] / "static"

# Between squares.js and the component whose value is the square; an empty value ends the crop.
TELL_CROP = """element.addEventListener("zoo-crop", (event) => { props.value = event.detail; }, true);
watch("value", () => {
	if (!props.value) element.querySelector(".crop").dispatchEvent(new Event("zoo-uncrop", { bubbles: true }));
});"""

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
class Sources:
    """The components that hold what a visitor has given: their values are the arguments of `Given`, in this order."""

    drawing: gr.HTML
    photo: gr.Image
    picture: gr.Image
    image: gr.Image
    source: gr.State
    photo_crop: gr.HTML
    picture_crop: gr.HTML
    image_crop: gr.HTML

    @property
    def all(self) -> list[Any]:
        """Return them as the inputs of an event."""
        return [getattr(self, field.name) for field in fields(self)]


def chooser(engine: Engine, kind: Kind, chosen: str | None = None) -> gr.Dropdown:
    """Build a dropdown of the ready models of a kind, most accurate first; without `chosen`, the first is chosen."""
    choices = []
    for model in ready_models(engine, kind):
        name = title(model.name) if kind != "image" else f"{title(model.name)}, {dataset_of(model.name)}".rstrip(", ")
        choices.append((name + (f" · {served_accuracy(model)}" if model.accuracy is not None else ""), model.name))
    names = [name for _, name in choices]
    value = chosen if chosen in names else next(iter(names), None)
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


def crop_square(photo: gr.Image, elem_id: str) -> gr.HTML:
    """Build what offers to crop the image in `photo`; its value is the square as `read_crop` takes it, or empty.

    It is in the same column as the image. Another image is not cropped: the browser empties the value.
    """
    square = gr.HTML(
        "",
        html_template=(STATIC / "crop.html").read_text(encoding="utf-8").replace("{id}", elem_id),
        js_on_load=TELL_CROP,
        apply_default_css=False,
        elem_id=elem_id,
    )
    photo.change(None, None, square, js="() => ''", queue=False, show_progress="hidden", api_visibility="private")
    return square
