"""The Gradio page: draw a digit, classify a picture, compare the models, see where they look, read their cards.

All inference goes through the engine's queue, as for the HTTP routes; the page does not use Gradio's own queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.types import Lifespan

from serve.app.classify_tabs import digit_tab, picture_tab
from serve.app.client_api import add_client_api
from serve.app.components import LIVE, STATIC, Sources, chooser
from serve.app.explain_tabs import compare_tab, understand_tab
from serve.app.hardening import private_folder
from serve.app.hardening.event_queue import bound
from serve.app.hardening.gradio_internals import (
    accept_any_choice,
    accept_only_uploads,
    bound_uploads,
    mounted_application,
    refuse_quietly,
    use_relative_addresses,
)
from serve.app.hardening.guard import Guard
from serve.app.hardening.streams import Streams
from serve.app.hardening.upload_quota import KEPT, UploadQuota
from serve.app.inference import KINDS, Kind, offered_kinds
from serve.app.models_tab import models_tab
from serve.engine.batching import Engine
from serve.http.bodies import Bodies
from serve.images.decoder import Decoder


def mount(app: FastAPI, engine: Engine, bodies: Bodies, decoder: Decoder) -> None:
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
        root_path="",  # the scope's, and not GRADIO_ROOT_PATH
        theme=theme,
        css_paths=STATIC / "style.css",
        js=(STATIC / "page.js").read_text(encoding="utf-8").partition("\n")[2],
        footer_links=["api"],
        # The history would keep every stroke in the browser's storage as a run.
        run_history=False,
        max_file_size=engine.settings.max_body,
        ssr_mode=False,
    )
    application = mounted_application(app)
    streams = app.state.streams = Streams()
    bound(page, application, streams)
    bound_uploads()
    accept_only_uploads(page)
    accept_any_choice()
    use_relative_addresses()
    refuse_quietly(page)
    quota = UploadQuota(page, Path(get_upload_folder()), max(KEPT, 16 * engine.settings.max_body))
    application.add_middleware(Guard, settings=engine.settings, bodies=bodies, quota=quota, streams=streams)
    app.router.lifespan_context = _lifespan(app.router.lifespan_context)


def _lifespan(inner: Lifespan[FastAPI]) -> Lifespan[FastAPI]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            yield state
        private_folder.release()

    return lifespan


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
        offered = offered_kinds(engine)
        latest = gr.State(None)
        # All tabs are built, and those without models hidden: the page's events have the same numbers on all servers.
        with gr.Tabs(selected=offered[0], overflow_behavior="wrap"):
            with gr.Tab("Digit", id="digit", visible="digit" in offered) as digit:
                digit_model, drawing, photo, source = digit_tab(engine, decoder, latest)
            with gr.Tab("Picture", id="picture", visible="picture" in offered) as picture:
                picture_model, picture_box = picture_tab(engine, decoder, "picture", latest)
            with gr.Tab("Image", id="image", visible="image" in offered) as image:
                image_model, image_box = picture_tab(engine, decoder, "image", latest)
            sources = Sources(drawing, photo, picture_box, image_box, source)
            models: dict[Kind, gr.Dropdown] = {"digit": digit_model, "picture": picture_model, "image": image_model}
            with gr.Tab("Compare") as tab:
                compare_tab(engine, decoder, sources, models, latest, tab)
            with gr.Tab("Understand") as tab:
                understand_tab(engine, decoder, sources, models, latest, tab)
            with gr.Tab("Models") as tab:
                models_tab(engine, tab)
        add_client_api(engine, decoder)

        def fill() -> list[Any]:
            now = offered_kinds(engine)
            return [*(gr.Tab(visible=kind in now) for kind in KINDS), *(chooser(engine, kind) for kind in KINDS)]

        page.load(fill, outputs=[digit, picture, image, *(models[kind] for kind in KINDS)], **LIVE)
    return page
