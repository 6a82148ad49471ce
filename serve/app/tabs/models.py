"""The tab with the results of all models beside the paper's, the report and each model's card."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gradio as gr

from serve.app.html.results import title
from serve.app.html.tables import dataset_title, published
from serve.app.model_cards import markdown, read_cards, report, sections
from serve.app.tabs.components import SLOW, html
from serve.engine.batching import Engine


def models_tab(engine: Engine, tab: gr.Tab) -> None:
    """Lay out the tab with the results of all models beside the paper's, the report and each model's card."""
    folder = engine.settings.models

    def documents() -> dict[str, tuple[Path, str]]:
        """Find what can be read here, by its name in the dropdown: a file, and a section of it or all of it."""
        found = {}
        for card in read_cards(folder).values():
            path = card.folder / "README.md"
            if path.is_file():
                found[f"{title(card.name)}, {dataset_title(card.dataset)}"] = path, ""
        about = report(folder)
        if about:
            found |= {f"Report: {section}": (about, section) for section in sections(about)}
        return found

    def text(chosen: str | None) -> str:
        found = documents().get(chosen or "")
        return markdown(*found) if found else ""

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
