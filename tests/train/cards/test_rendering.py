"""The filters of the templates, and what the environment does with names that are not defined."""

from pathlib import Path

import jinja2
import pytest

from train.cards import rendering


def test_filters_format_numbers_words_and_tables(tmp_path: Path) -> None:
    (tmp_path / "text.j2").write_text(
        "{% filter paragraph %}\nA line\n{% if true %}\nand another\n{% endif %}\n{% endfilter %}\n\n"
        "{{ number|fixed }} {{ none|fixed }} {{ 5629386|thousands }} {{ 0.5|general }} {{ ['a', 'b', 'c']|listed }}\n"
        "{{ ['a']|listed }} {{ 'a|b'|cell }}\n{{ [['x', 'y'], ['1', '2']]|table }}\n"
    )
    text = rendering.environment(tmp_path).get_template("text.j2").render(number=93.125)
    assert text == (
        "A line and another\n\n93.12 - 5,629,386 0.5 a, b and c\na a\\|b\n| x | y |\n| --- | --- |\n| 1 | 2 |\n"
    )


def test_a_name_that_is_not_defined_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.j2").write_text("{{ metrics.acuracy }}")
    with pytest.raises(jinja2.UndefinedError, match="acuracy"):
        rendering.environment(tmp_path).get_template("text.j2").render(metrics={})
