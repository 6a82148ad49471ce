"""The Gradio page: draw a digit, classify a picture, compare the models, see where they look, read their cards.

All inference goes through the engine's queue, as for the HTTP routes; Gradio's own queue is not used.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from serve.app.classify_tabs import digit_tab, picture_tab
from serve.app.client_api import add_client_api
from serve.app.components import LIVE, STATIC, LastInputs, chooser
from serve.app.explain_tabs import compare_tab, models_tab, understand_tab
from serve.app.gradio_internals import accept_only_uploads, mounted_application, poll_less_often, refuse_quietly
from serve.app.guard import Guard
from serve.app.upload_quota import KEPT, UploadQuota
from serve.engine.batching import Engine
from serve.images.decoder import Decoder


def mount(app: FastAPI, engine: Engine, decoder: Decoder) -> None:
    """Mount the page at `/` of `app`. Routes that `app` already has take precedence."""
    page = build(engine, decoder)
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        # The fonts of the visitor's system: one of Google's would be fetched from another server.
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme,
        css_paths=STATIC / "style.css",
        js=(STATIC / "page.js").read_text(encoding="utf-8").partition("\n")[2],
        footer_links=["api"],
        # The history would keep every stroke in the browser's storage as a run.
        run_history=False,
        max_file_size=engine.settings.max_body,
        ssr_mode=False,
    )
    accept_only_uploads(page)
    refuse_quietly(page)
    poll_less_often(page)
    quota = UploadQuota(page, max(KEPT, 16 * engine.settings.max_body))
    mounted_application(app).add_middleware(Guard, settings=engine.settings, quota=quota, streams=app.state.streams)


def build(engine: Engine, decoder: Decoder) -> gr.Blocks:
    """Build the page. No model has to be ready: the choosers are filled when a visitor opens the page."""
    # Visitors' pictures are deleted after an hour, or earlier by UploadQuota.
    page = gr.Blocks(title="Deep Image Zoo", delete_cache=(600, 3600))
    with page:
        gr.HTML(
            "<h1>Deep Image Zoo</h1>"
            "<p>VGG16, ResNet18 and GoogLeNet, vanilla and improved. Draw a digit or choose a picture.</p>",
            elem_classes="zoo-title",
            apply_default_css=False,
        )
        last = gr.State(LastInputs())
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Digit"):
                digit_model = digit_tab(engine, decoder, last)
            with gr.Tab("Picture"):
                picture_model = picture_tab(engine, decoder, last)
            with gr.Tab("Compare") as tab:
                compare_tab(engine, decoder, last, tab)
            with gr.Tab("Understand") as tab:
                understand_tab(engine, decoder, last, tab)
            with gr.Tab("Models") as tab:
                models_tab(engine, tab)
        add_client_api(engine, decoder)

        def fill() -> list[gr.Dropdown]:
            return [chooser(engine, "mnist"), chooser(engine, "cifar10")]

        page.load(fill, outputs=[digit_model, picture_model], **LIVE)
    return page
