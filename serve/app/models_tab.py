"""The tab with the results of all models beside the paper's, the report and each model's card."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gradio as gr

from serve.app.components import SLOW, html
from serve.app.model_cards import markdown, read_cards, report
from serve.app.result_html import title
from serve.app.table_html import dataset_title, published
from serve.engine.batching import Engine


def models_tab(engine: Engine, tab: gr.Tab) -> None:
    """Lay out the tab with the results of all models beside the paper's, the report and each model's card."""
    folder = engine.settings.models

    def documents() -> dict[str, Path]:
        """Find what can be read here, by its name in the dropdown."""
        found = {"Report": report(folder)}
        for card in read_cards(folder).values():
            found[f"{title(card.name)}, {dataset_title(card.dataset)}"] = card.folder / "README.md"
        return {name: path for name, path in found.items() if path is not None and path.is_file()}

    def text(chosen: str | None) -> str:
        path = documents().get(chosen or "")
        return markdown(path) if path else ""

    def overview() -> tuple[str, gr.Dropdown, str]:
        names = list(documents())
        first = names[0] if names else None
        choices = gr.Dropdown([(name, name) for name in names], value=first, visible=bool(names))
        return published(read_cards(folder), engine.models()), choices, text(first)

    async def enter() -> tuple[str, gr.Dropdown, str]:
        return await asyncio.to_thread(overview)

    async def read(chosen: str | None) -> str:
        return await asyncio.to_thread(text, chosen)

    table = html("", "published")
    choice = gr.Dropdown([], label="Read", interactive=True, visible=False)
    card = gr.Markdown("", elem_id="card")
    tab.select(enter, None, [table, choice, card], **SLOW)
    choice.input(read, choice, card, **SLOW)
