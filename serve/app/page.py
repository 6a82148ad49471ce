"""The Gradio app: draw a digit, classify a picture, compare the models, see where they look, read their cards.

All inference goes through the engine's queue, which the HTTP routes use too: Gradio puts none of its own before it.
"""

from __future__ import annotations

import os

# Read when gradio is imported: no data may leave the machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from serve.app.api import add_api
from serve.app.guard import Guard, close_files, refuse_quietly
from serve.app.parts import LIVE, STATIC, Seen, chooser
from serve.app.study_tabs import compare_tab, models_tab, understand_tab
from serve.app.tabs import digit_tab, picture_tab
from serve.app.uploads import KEPT, Uploads
from serve.engine.batching import Engine
from serve.images.decoder import Decoder


def mount(app: FastAPI, engine: Engine, decoder: Decoder) -> None:
    """Put the app at `/` of `app`. Routes that `app` already has go first."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        # Names only: one of Google's fonts would be fetched from outside.
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
    gr.mount_gradio_app(
        app,
        build(engine, decoder),
        path="/",
        theme=theme,
        css_paths=STATIC / "style.css",
        js=(STATIC / "page.js").read_text(encoding="utf-8").partition("\n")[2],
        footer_links=["api"],
        # With it every stroke would be kept in the browser's storage as a run.
        run_history=False,
        max_file_size=engine.settings.max_body,
        ssr_mode=False,
    )
    close_files()
    (gradio,) = (route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, gr.routes.App))
    page = gradio.get_blocks()
    refuse_quietly(page)
    uploads = Uploads(page, max(KEPT, 16 * engine.settings.max_body))
    gradio.add_middleware(Guard, settings=engine.settings, uploads=uploads, streams=app.state.streams)
    # Gradio checks its queue for work a thousand times a second, and for progress a hundred times: 3 % of a core.
    queue = page._queue
    queue.sleep_when_free, queue.progress_update_sleep_when_free = 0.05, 0.5


def build(engine: Engine, decoder: Decoder) -> gr.Blocks:
    """Build the page. No model need be ready by then: choosers are filled when the page is opened."""
    # Visitors' pictures are deleted an hour after they came, or earlier where there are too many (Uploads).
    page = gr.Blocks(title="Deep Image Zoo", delete_cache=(600, 3600))
    with page:
        gr.HTML(
            "<h1>Deep Image Zoo</h1>"
            "<p>VGG16, ResNet18 and GoogLeNet, vanilla and improved. Draw a digit or choose a picture.</p>",
            elem_classes="zoo-title",
            apply_default_css=False,
        )
        seen = gr.State(Seen())
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Digit"):
                digit_model = digit_tab(engine, decoder, seen)
            with gr.Tab("Picture"):
                picture_model = picture_tab(engine, decoder, seen)
            with gr.Tab("Compare") as tab:
                compare_tab(engine, decoder, seen, tab)
            with gr.Tab("Understand") as tab:
                understand_tab(engine, decoder, seen, tab)
            with gr.Tab("Models") as tab:
                models_tab(engine, tab)
        add_api(engine, decoder)

        def fill() -> list[gr.Dropdown]:
            return [chooser(engine, "mnist"), chooser(engine, "cifar10")]

        page.load(fill, outputs=[digit_model, picture_model], **LIVE)
    # Without this a mounted page lets callers name any file on the machine.
    page.has_launched = True
    return page
