"""The panel that looks inside a network, as HTML. Pure functions; all text from outside is escaped.

inside.js exchanges the elements with `data-part` alone while the model stays the same, so that the keyboard's focus and
the visitor's scrolling stay.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from serve.app.html.results import png, says, title
from serve.app.inference import Pixels, Prediction
from serve.app.inside import Asked, Grades, filter_image, frame, levels, palette, peak, sheet, strongest
from serve.engine.models import Scores
from serve.engine.studies import Filter, Look, Stage
from serve.images.digits import Problem

NAMES = ("First convolution", "A middle stage", "The last stage")
COLOURS = {1: "the image", 3: "the image's 3 colours"}


def panel(pixels: Pixels, look: Look, prediction: Prediction, wanted: Asked, problem: Problem | None = None) -> str:
    """Build the panel: the image, the maps of three stages, and the chosen map.

    Args:
        pixels: the image as the model sees it, moved as the visitor wants.
        look: what the study file returns for it.
        prediction: what the model says of it.
        wanted: what the visitor has chosen.
        problem: what is wrong with a digit.
    """
    stage = look.stages[wanted.stage]
    maps = look.maps[stage.name]
    channel = strongest(maps) if wanted.channel is None else min(max(wanted.channel, 0), len(maps) - 1)
    at = peak(maps[channel])
    stages = "".join(
        _stage(index, one, look, channel if one is stage else None) for index, one in enumerate(look.stages)
    )
    moved = f"moved by {wanted.x}, {wanted.y} pixels" if wanted.x or wanted.y else "drag it to move it"
    shape = "x".join(str(size) for size in pixels.shape)
    return (
        f'<div class="inside" data-key="{escape(prediction.model)} {shape}" data-stage="{wanted.stage}"'
        f' data-map="{channel}"><div class="seen"><figure class="move" tabindex="0" role="application"'
        ' aria-label="Move the image: drag it, or press the arrow keys; Escape moves it back">'
        f'<div><img data-part="seen" src="{png(pixels)}" alt="The image as the model sees it">'
        f"{_frame(stage, at, pixels)}</div>"
        f'<figcaption data-part="moved">{moved}</figcaption></figure>'
        f'<div><p class="note">{escape(title(prediction.model))} says</p>'
        f'<div data-part="says">{says(prediction, problem)}</div>'
        '<button type="button" class="back">Move it back</button></div></div>'
        f'<div class="stages">{stages}</div>'
        '<div class="map"><div class="turn"><p role="status" data-part="named">'
        f"<b>Map {channel + 1} of {len(maps)}</b>, {NAMES[wanted.stage].lower()} ({escape(stage.layer)})</p>"
        '<button type="button" data-step="-1">Previous map</button>'
        '<button type="button" data-step="1">Next map</button></div>'
        f'<div data-part="map" class="drawn">{_map(stage, maps, channel, at, pixels, prediction.labels)}</div>'
        "</div></div>"
    )


def _frame(stage: Stage, at: tuple[int, int] | None, pixels: Pixels) -> str:
    """Frame what the strongest response of the chosen map depends on."""
    found = frame(stage, at)
    if found is None:
        return '<i data-part="frame" hidden></i>'
    height, width = pixels.shape[:2]
    top, left, rows, columns = (100 * one / size for one, size in zip(found, (height, width) * 2, strict=True))
    style = f"top:{top:.1f}%;left:{left:.1f}%;height:{rows:.1f}%;width:{columns:.1f}%"
    return f'<i data-part="frame" style="{style}"></i>'


def _stage(index: int, stage: Stage, look: Look, channel: int | None) -> str:
    """Build the sheet of a stage, with a mark on the chosen map if it is one of this stage."""
    drawn = sheet(look.maps[stage.name])
    count, height, width = stage.shape
    size = f"{count} maps of {height}x{width}"
    row, column = divmod(channel or 0, drawn.columns)
    style = (
        f"left:{100 * column / drawn.columns:.2f}%;top:{100 * row / drawn.rows:.2f}%;"
        f"width:{100 / drawn.columns:.2f}%;height:{100 / drawn.rows:.2f}%"
    )
    hidden = " hidden" if channel is None else ""
    return (
        f'<figure data-stage="{index}" data-columns="{drawn.columns}" data-rows="{drawn.rows}" data-count="{count}"'
        f' tabindex="0" role="application" aria-label="{NAMES[index]}, {size}: press the arrow keys to choose a map">'
        f"<figcaption>{NAMES[index]}<small>{escape(stage.layer)}, {size}</small></figcaption>"
        f'<div><img data-part="maps{index}" src="{_png(drawn.grades)}" alt="{size}, the brighter the stronger">'
        f'<i data-part="mark{index}" style="{style}"{hidden}></i></div></figure>'
    )


def _map(
    stage: Stage, maps: Scores, channel: int, at: tuple[int, int] | None, pixels: Pixels, labels: Sequence[str]
) -> str:
    """Build the chosen map, enlarged, and its filter, with what they tell."""
    alt = f"Map {channel + 1}, enlarged"
    drawn = f'<figure><img src="{_png(levels(maps)[channel])}" alt="{alt}"><figcaption>the map</figcaption></figure>'
    found = stage.filter(channel)
    lines = []
    if found is not None:
        image = f'<img src="{png(filter_image(found))}" alt="Its filter">'
        drawn += f'<figure class="filter">{image}<figcaption>its filter</figcaption></figure>'
        lines.append(_made_by(found))
    lines.append(_where(stage, at, pixels))
    if stage.classes:
        most, least = (escape(labels[index]) for index in stage.classes[channel])
        lines.append(f"Of all classes, it counts most for {most}, and most against {least}.")
    return f'{drawn}<p class="note">{" ".join(lines)}</p>'


def _made_by(found: Filter) -> str:
    """Say what a filter is."""
    height, width = found.weights.shape[1:]
    what = f"Its filter is {height}x{width}, over {COLOURS.get(found.inputs, f'{found.inputs} maps')}"
    if found.inputs == 3:
        return f"{what}; grey is a weight of 0."
    shown = f"; shown are the {len(found.shown)} slices with the largest weights" if found.inputs > 3 else ""
    return f"{what}{shown}: orange adds, blue takes away."


def _where(stage: Stage, at: tuple[int, int] | None, pixels: Pixels) -> str:
    """Say where a map responds most, and what it sees there."""
    found = frame(stage, at)
    if at is None or found is None:
        return "It does not respond to this image."
    _, height, width = stage.shape
    _, _, rows, columns = found
    what = "the whole image" if (rows, columns) == pixels.shape[:2] else f"{rows}x{columns} pixels of the image, framed"
    place = f"It responds most in row {at[0] + 1}, column {at[1] + 1}; there it sees"
    return f"{place if height * width > 1 else 'Its one place sees'} {what}."


def _png(grades: Grades) -> str:
    """Encode grades [H, W] as a data URL in their colours."""
    image = Image.fromarray(grades)
    image.putpalette(palette())
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
