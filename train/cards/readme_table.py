"""The table of published models in the project's README: every number comes from a card's `metrics.json`."""

from pathlib import Path
from urllib.parse import quote

from train import records
from train.cards import wording
from train.cards.model_card import TEMPLATES
from train.files import write_text
from train.records import CardMetrics
from train.training import models

BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"


def with_rows(readme: str, cards: list[Path]) -> str:
    """Return the text of a README with its table of published models rebuilt, between the two comments that mark it."""
    rows = [
        {
            "name": folder.name,
            "link": f"model_cards/{quote(folder.name)}",
            "metrics": records.read(CardMetrics, folder / "metrics.json"),
        }
        for folder in cards
    ]
    table = TEMPLATES.get_template("readme_table.md.j2").render(rows=rows, wording=wording)
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}{END}{rest.split(END)[1]}"


def write() -> None:
    """Rebuild the table in the checkout's README.md, where the published models are the checkout's own."""
    if models.MODEL_CARDS.resolve() == models.REPOSITORY / "model_cards":
        readme = models.REPOSITORY / "README.md"
        write_text(readme, with_rows(readme.read_text(), models.cards()))
