"""The panel that looks inside a network, and class activation maps, without a browser."""

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from studies import write_study

from serve.app import inside
from serve.app.html.inside import panel
from serve.app.html.tables import explanation
from serve.app.inference import Prediction
from serve.app.inputs import Given
from serve.app.inside import Asked, asked, class_map, filter_image, frame, levels, moved, peak, sheet
from serve.app.occlusion import OcclusionMap
from serve.app.tabs.explain import COVERING, _study
from serve.app.tabs.inside import look_inside
from serve.engine.batching import Engine
from serve.engine.metrics import Metrics
from serve.engine.studies import Filter, Look, Stage
from serve.errors import Overloaded
from serve.images.decoder import Decoder
from serve.settings import Settings

EXAMPLES = Path(__file__).parents[3] / "serve" / "examples"
SEVEN = json.dumps({"strokes": [{"width": 0.07, "points": [0.2, 0.2, 0.7, 0.2, 0.4, 0.8]}]})
LABELS = ["<0>", *(str(digit) for digit in range(1, 10))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "x",
        "3",
        "[]",
        "null",
        '{"x": "a"}',
        '{"x": 1e999}',
        '{"x": NaN}',
        '{"map": []}',
        "[" * 10_000,
        "\ud800",
    ],
)
def test_whatever_else_a_client_sends_counts_as_nothing(text: Any) -> None:
    assert asked(text) == Asked()


def test_what_inside_js_sends_is_read() -> None:
    text = json.dumps({"x": 3, "y": -2, "stage": 2, "map": 17, "kind": "picture", "count": 5})
    assert asked(text) == Asked("picture", 3, -2, 2, 17)
    assert asked(json.dumps({"x": 0, "y": 0, "stage": 9, "map": None, "kind": "models"})) == Asked(stage=2)
    assert asked(json.dumps({"x": 10**300, "y": -17})) == Asked(x=16, y=-16)
    assert asked(json.dumps({"stage": -1, "map": -5, "kind": "digit"})) == Asked("digit", channel=-5)


def test_an_image_is_moved_and_what_comes_in_is_plain() -> None:
    digit = np.zeros((4, 6, 1), np.uint8)
    digit[1, 1], digit[:, -1] = 9, 5
    found = moved(digit, 2, 1)
    assert found[2, 3, 0] == 9
    assert np.count_nonzero(found) == 1  # black comes in
    photo = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    found = moved(photo, -1, 0)
    np.testing.assert_array_equal(found[:, :-1], photo[:, 1:])
    np.testing.assert_array_equal(found[:, -1], photo[:, -1])  # the edge goes on
    np.testing.assert_array_equal(moved(photo, 0, 0), photo)
    np.testing.assert_array_equal(moved(photo, 10**9, -(10**9)), moved(photo, 3, -2))


@pytest.mark.parametrize(
    ("shape", "columns", "size"),
    [
        ((64, 16, 16), 8, (8 * 17, 8 * 17)),
        ((32, 32, 32), 6, (6 * 33, 6 * 33)),
        ((64, 64, 64), 8, (8 * 33, 8 * 33)),  # reduced
        ((480, 4, 4), 24, (20 * 5, 24 * 5)),
        ((512, 1, 1), 23, (23 * 7, 23 * 7)),  # enlarged
        ((1, 3, 5), 1, (4, 6)),
    ],
)
def test_a_sheet_holds_every_map_in_its_place(shape: tuple[int, int, int], columns: int, size: tuple[int, int]) -> None:
    maps = np.zeros(shape, np.float32)
    last = shape[0] - 1
    maps[last, 0, 0] = 1
    found = sheet(maps)
    assert (found.columns, found.grades.shape) == (columns, size)
    assert found.rows * found.columns >= shape[0]
    height, width = size[0] // found.rows, size[1] // found.columns
    rows, columns_ = np.nonzero(found.grades)
    assert set(rows // height) == {last // columns}
    assert set(columns_ // width) == {last % columns}


def test_grades_are_on_one_scale_and_never_below_zero() -> None:
    maps = np.stack([np.full((4, 4), value, np.float32) for value in (-3, 0, 1, 2)])
    maps[0, 0, 0] = np.nan
    found = levels(maps)
    assert [int(one.max()) for one in found] == [0, 0, pytest.approx(19, abs=2), inside.LEVELS - 1]
    assert levels(np.zeros((2, 2, 2), np.float32)).max() == 0
    assert len(inside.palette()) == 3 * inside.LEVELS


def test_a_filter_is_drawn_in_the_images_colours_or_in_slices() -> None:
    colours = Filter(3, [0, 1, 2], np.array([[[127]], [[0]], [[-127]]], np.int8))
    assert filter_image(colours).tolist() == [[[255, 128, 1]]]
    slices = Filter(64, [5, 2, 9, 1], np.array([[[127, 0]], [[-127, 0]], [[0, 0]], [[0, 127]]], np.int8))
    found = filter_image(slices)
    assert found.shape == (9, 26, 3)  # two rows of three, each 4 by 8, and a pixel between them
    plus, zero, minus = (stop.astype(int).tolist() for stop in inside.SIGNS[::-1])
    assert (found[0, 0].tolist(), found[3, 7].tolist(), found[0, 9].tolist(), found[5, 4].tolist()) == (
        plus,
        zero,
        minus,
        plus,
    )


def test_the_frame_is_what_the_strongest_response_sees() -> None:
    stage = Stage("middle", "x", (1, 2, 3), [(0, 5), (3, 9)], [(0, 1), (1, 4), (6, 9)], [], [None])
    one = np.array([[0, 1, 2], [0, 3, 0]], np.float32)
    assert peak(one) == (1, 1)
    assert frame(stage, peak(one)) == (3, 1, 7, 4)
    assert peak(-one) is None
    assert frame(stage, None) is None


def test_class_maps_are_on_one_scale_and_in_blocks() -> None:
    maps = np.array([[[4, 0], [-4, 2]], [[1, 1], [1, 1]], [[-1, -1], [-1, -1]]], np.float32)
    found = class_map(maps, 0, (4, 6))
    assert found.places == (2, 2)
    assert found.heat.shape == (4, 6)
    assert found.heat[:2, :3].tolist() == [[1] * 3] * 2
    assert (found.heat[0, 5], found.heat[3, 0], found.heat[3, 5]) == (0, 0, 0.5)
    assert (class_map(maps, 1, (4, 6)).heat == 0.25).all()
    assert not class_map(maps, 2, (4, 6)).heat.any()
    assert not class_map(-np.abs(maps), 0, (4, 6)).heat.any()


def looked(channels: int = 2) -> Look:
    filters: list[Any] = [{"inputs": 1, "shown": [0], "size": [1, 1], "weights": base64.b64encode(b"\x7f").decode()}]
    rows = [(i, i) for i in range(28)]
    stages = [
        Stage(name, "<b>layer", (channels, 28, 28), rows, rows, [(0, 9)] * channels, filters * channels)
        for name in ("first", "middle", "last")
    ]
    maps = np.zeros((channels, 28, 28), np.float32)
    maps[1, 20, 10] = 1
    return Look({stage.name: maps for stage in stages}, None, stages)


def prediction(model: str = "vanilla_vgg16.mnist") -> Prediction:
    probabilities = np.full(10, 0.01, np.float32)
    probabilities[3] = 0.91
    return Prediction(model, LABELS, probabilities, 0.01)


def test_the_panel_chooses_the_strongest_map_and_frames_what_it_sees() -> None:
    html = panel(np.zeros((28, 28, 1), np.uint8), looked(), prediction(), Asked("digit"))
    assert 'data-stage="0" data-map="1"' in html
    assert "<b>Map 2 of 2</b>, first convolution" in html
    assert "It responds most in row 21, column 11; there it sees 1x1 pixels of the image, framed." in html
    assert 'data-part="frame" style="top:71.4%;left:35.7%;height:3.6%;width:3.6%"' in html
    assert "it counts most for &lt;0&gt;, and most against 9" in html
    assert "<b>layer" not in html
    assert html.count('role="application"') == 4
    for image in re.findall(r'src="data:image/png;base64,([^"]+)"', html):
        Image.open(io.BytesIO(base64.b64decode(image))).verify()
    for label in re.findall(r"<img(?![^>]*alt=\"[^\"])[^>]*>", html):
        raise AssertionError(label)


@pytest.mark.parametrize(("channel", "named"), [(0, 1), (-5, 1), (10**9, 2)])
def test_a_map_that_is_not_there_is_the_nearest(channel: int, named: int) -> None:
    html = panel(np.zeros((28, 28, 1), np.uint8), looked(), prediction(), Asked("digit", 3, -1, 2, channel))
    assert f"<b>Map {named} of 2</b>, the last stage" in html
    assert "moved by 3, -1 pixels" in html
    if named == 1:
        assert "It does not respond to this image." in html
        assert 'data-part="frame" hidden' in html


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(Settings(), Metrics())
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("models")
    digits = [str(digit) for digit in range(10)]
    write_study(tiny(folder / "one.mnist", shape=(28, 28, 1), labels=digits).write(accuracy="99"))
    tiny(folder / "without.mnist", shape=(28, 28, 1), labels=digits).write(accuracy="98")
    write_study(tiny(folder / "one.cifar10", labels=digits).write(accuracy="90"))
    write_study(tiny(folder / "dense.cifar10", labels=digits).write(accuracy="80"), class_maps=False)
    write_study(tiny(folder / "own.pets", labels=digits).write(accuracy="80"))
    with Engine(Settings(models=folder)) as made:
        yield made


def look(engine: Engine, decoder: Decoder, given: Given, model: str | None = None, **wanted: Any) -> str:
    models: Any = {"digit": model, "picture": model, "image": model}
    return asyncio.run(look_inside(engine, decoder, json.dumps(wanted), models, given))


def test_a_drawing_and_files_are_looked_into(engine: Engine, decoder: Decoder) -> None:
    html = look(engine, decoder, Given(SEVEN), kind="digit")
    assert 'data-key="one.mnist 28x28x1"' in html
    frog = str(EXAMPLES / "picture-frog.png")
    assert 'data-key="one.cifar10' in look(engine, decoder, Given(picture=frog), kind="picture")
    assert 'data-key="dense.cifar10' in look(engine, decoder, Given(picture=frog), "dense.cifar10", kind="picture")
    assert 'data-key="own.pets' in look(engine, decoder, Given(image=frog), kind="image")
    still, further = (look(engine, decoder, Given(picture=frog), kind="picture", x=x, map=0) for x in (0, 5))
    first = [re.search(r'data-part="maps0" src="([^"]+)', html) for html in (still, further)]
    assert first[0]
    assert first[1]
    assert first[0][1] != first[1][1]


def test_without_an_image_or_a_study_file_there_is_one_line(engine: Engine, decoder: Decoder) -> None:
    assert "Nothing to read yet" in look(engine, decoder, Given(), kind="digit")
    assert "Choose a picture" in look(engine, decoder, Given(), kind="picture")
    assert "Choose an image" in look(engine, decoder, Given(), kind="image")
    html = look(engine, decoder, Given(SEVEN), "without.mnist", kind="digit")
    assert "There is no model.study.onnx of without.mnist yet; python train/export.py --missing" in html
    assert 'class="inside"' not in html


def test_an_overload_fails_the_call_so_that_the_page_sends_it_again(
    engine: Engine, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise Overloaded

    monkeypatch.setattr(engine, "look", full)
    with pytest.raises(gr.Error, match="the queue is full"):
        look(engine, decoder, Given(SEVEN), kind="digit")


def study(engine: Engine, decoder: Decoder, model: str, way: str | None) -> tuple[gr.Dropdown, str]:
    frog = str(EXAMPLES / "picture-frog.png")
    return asyncio.run(_study(engine, decoder, "picture", model, Given(picture=frog), way))


def test_a_network_that_pools_globally_shows_its_class_map_at_once(engine: Engine, decoder: Decoder) -> None:
    ways, html = study(engine, decoder, "one.cifar10", None)
    choices: Any = ways.choices
    values = [value for _, value in choices]
    assert ways.visible
    assert len(values) == 11
    assert values[-1] == COVERING
    assert ways.value == values[0]
    assert f"Evidence for {values[0]}" in choices[0][0]
    assert "class activation map" in html
    assert "2x2 places" in html
    assert "pending" not in html
    _, other = study(engine, decoder, "one.cifar10", "9")
    assert "evidence for 9" in other
    ways, covered = study(engine, decoder, "one.cifar10", COVERING)
    assert ways.value == COVERING
    assert "effect of covering it" in covered
    for odd in ("", "-1", "99", "²", "x" * 1000):
        assert "class activation map" in study(engine, decoder, "one.cifar10", odd)[1]


def test_elsewhere_the_map_is_made_by_covering_when_it_is_asked_for(engine: Engine, decoder: Decoder) -> None:
    for model in ("dense.cifar10", "one.cifar10"):
        ways, html = study(engine, decoder, model, None)
        assert ways.visible == ("class activation map" in html) == (model == "one.cifar10")
    _, html = study(engine, decoder, "dense.cifar10", None)
    assert "The map is being made" in html
    _, html = study(engine, decoder, "dense.cifar10", "3")
    assert "effect of covering it" in html


def test_a_last_map_of_one_place_and_an_empty_one_are_told() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    maps = np.ones((10, 2, 2), np.float32)
    found = class_map(maps, 0, (32, 32))
    html = explanation(pixels, prediction(), None, found)
    covered = OcclusionMap(prediction(), found.heat, 0.5, 0.1)
    for one_place in (False, True):
        html_covered = explanation(pixels, prediction(), None, covered, one_place=one_place)
        assert ("a last map of a single place" in html_covered) == one_place
    assert "evidence for &lt;0&gt;" in html
    empty = replace(found, heat=np.zeros((32, 32), np.float32))
    assert "No place counts for &lt;0&gt;." in explanation(pixels, prediction(), None, empty)
