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

from serve.app import site
from serve.app.client_api import add_client_api, client_functions
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
from serve.app.tabs.classify import digit_tab, picture_tab
from serve.app.tabs.components import LIVE, STATIC, Sources, chooser
from serve.app.tabs.explain import compare_tab, understand_tab
from serve.app.tabs.inside import inside_panel
from serve.app.tabs.models import models_tab
from serve.engine.batching import Engine
from serve.http.bodies import Bodies
from serve.images.decoder import Decoder

INVITATIONS: dict[Kind, str] = {
    "digit": "Draw a digit, and see how networks read it.",
    "picture": "Or give them a picture.",
    "image": "Or an image for models of other classes.",
}


def mount(app: FastAPI, engine: Engine, bodies: Bodies, decoder: Decoder) -> None:
    """Mount the page at `/` of `app`. Routes that `app` already has take precedence."""
    app.router.routes.extend(site.routes())
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
        css_paths=[STATIC / "style.css", STATIC / "inside.css"],
        js=_scripts("page.js", "squares.js"),
        # "How this works" links the API. Gradio's own page shows calls with files of other servers, which this refuses.
        footer_links=[],
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
    application.add_middleware(site.OwnPage, shared=engine.settings.api_key is None)
    application.add_middleware(Guard, settings=engine.settings, bodies=bodies, quota=quota, streams=streams)
    app.router.lifespan_context = _lifespan(app.router.lifespan_context)


def _scripts(*names: str) -> str:
    """Join files that each hold a comment of one line and a function into one function that calls theirs."""
    functions = [(STATIC / name).read_text(encoding="utf-8").partition("\n")[2] for name in names]
    return "() => {" + "".join(f"({function.strip()})();" for function in functions) + "}"


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
        offered = offered_kinds(engine)
        gr.HTML(
            f"<h1>Deep Image Zoo</h1><p>{' '.join(INVITATIONS[kind] for kind in offered)}</p>",
            elem_classes="zoo-title",
            apply_default_css=False,
        )
        latest = gr.State(None)
        # All tabs are built, and those without models hidden: the page's events have the same numbers on all servers.
        with gr.Tabs(selected=offered[0], overflow_behavior="wrap"):
            with gr.Tab("Digit", id="digit", visible="digit" in offered) as digit:
                digit_model, drawing, photo, source, photo_crop = digit_tab(engine, decoder, latest)
            with gr.Tab("Picture", id="picture", visible="picture" in offered) as picture:
                picture_model, picture_box, picture_crop = picture_tab(engine, decoder, "picture", latest)
            with gr.Tab("Image", id="image", visible="image" in offered) as image:
                image_model, image_box, image_crop = picture_tab(engine, decoder, "image", latest)
            sources = Sources(drawing, photo, picture_box, image_box, source, photo_crop, picture_crop, image_crop)
            models: dict[Kind, gr.Dropdown] = {"digit": digit_model, "picture": picture_model, "image": image_model}
            with gr.Tab("Compare") as tab:
                compare_tab(engine, decoder, sources, models, latest, tab)
            with gr.Tab("Understand") as tab:
                understand_tab(engine, decoder, sources, models, latest, tab)
            with gr.Tab("Models") as tab:
                models_tab(engine, tab)
        inside_panel(engine, decoder, sources, models)
        gr.HTML((STATIC / "about.html").read_text(encoding="utf-8"), apply_default_css=False)
        add_client_api(client_functions(engine, decoder))

        def fill(address: str | None) -> list[Any]:
            now, model = offered_kinds(engine), (address or "").partition("/")[2]
            return [*(gr.Tab(visible=kind in now) for kind in KINDS), *(chooser(engine, kind, model) for kind in KINDS)]

        # The part of the address after #: a tab and a model, as page.js writes them.
        address = gr.Textbox("", visible=False)
        filled = [digit, picture, image, *(models[kind] for kind in KINDS)]
        loaded = page.load(fill, address, filled, js="() => [location.hash.slice(1)]", **LIVE)
        loaded.then(None, js="() => zoo.ready()")
        for model in models.values():
            model.input(None, model, js="model => zoo.choose(model)")
    return page
