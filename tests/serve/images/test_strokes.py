"""Drawings as strokes: what is read, and what becomes of them."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from digit_pixels import difference, pixels_of

from serve.errors import BadImage
from serve.images.digits import BOX, SIDE
from serve.images.strokes import MOST_BYTES, MOST_POINTS, Stroke, curve, picture, prepare_strokes, read_strokes

SEVEN = [[(0.2, 0.1), (0.8, 0.1), (0.4, 0.9)]]
FIVE = [[(0.3, 0.1), (0.27, 0.45), (0.6, 0.42), (0.75, 0.65), (0.55, 0.9), (0.25, 0.85)], [(0.3, 0.1), (0.8, 0.08)]]
SIX = [
    [
        (0.66, 0.1),
        (0.4, 0.3),
        (0.3, 0.6),
        *((0.5 - 0.2 * math.cos(t / 4), 0.7 - 0.2 * math.sin(t / 4)) for t in range(26)),
    ]
]
Lines = Sequence[Sequence[tuple[float, float]]]


def drawn(
    lines: Lines, *, size: float = 0.6, at: tuple[float, float] = (0.2, 0.2), width: float = 0.07
) -> list[Stroke]:
    return [Stroke(width, np.array(line, np.float32) * size + np.array(at, np.float32)) for line in lines]


def text(*strokes: Any) -> str:
    return json.dumps({"strokes": strokes})


def test_what_the_pad_sends_is_read() -> None:
    (stroke,) = read_strokes(text({"width": 0.0714, "points": [0.25, 0.5, 1, -0.125]}))
    assert stroke.width == 0.0714
    assert stroke.points.tolist() == [[0.25, 0.5], [1.0, -0.125]]
    assert read_strokes(text()) == []


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        ('{"strokes": [{"width": NaN, "points": [0, 0]}]}', "not JSON"),
        ("[]", 'no list "strokes"'),
        ('{"strokes": {}}', 'no list "strokes"'),
        (text(7), "stroke 1 has no"),
        (text({"width": 0.1}), "stroke 1 has no"),
        (text({"width": 0, "points": [0, 0]}), "the width 0; valid is"),
        (text({"width": True, "points": [0, 0]}), "the width True; valid is"),
        (text({"width": "thick", "points": [0, 0]}), "the width 'thick'; valid is"),
        (text({"width": 0.1, "points": []}), "at least one point"),
        (text({"width": 0.1, "points": [1, 2, 3]}), "x, y, x, y"),
        (
            text({"width": 0.1, "points": [0, 0]}, {"width": 0.1, "points": [0, 17]}),
            "stroke 2 has the coordinate 17; valid",
        ),
        (text({"width": 0.1, "points": [0, None]}), "the coordinate None"),
        ('{"strokes": [{"width": 0.1, "points": [0, 1e999]}]}', "not JSON|the coordinate inf"),
        (text({"width": 0.1, "points": [0, 0] * (MOST_POINTS + 1)}), f"at most {MOST_POINTS:,}"),
        (" " * (MOST_BYTES + 1), f"at most {MOST_BYTES:,}"),
    ],
)
def test_what_is_no_drawing_is_refused(sent: str, message: str) -> None:
    with pytest.raises(BadImage, match=message) as refused:
        read_strokes(sent)
    assert refused.value.status in (400, 413)
    assert len(str(refused.value)) < 250
    assert "\n" not in str(refused.value)


def test_the_image_looks_like_one_of_mnist() -> None:
    image = pixels_of(prepare_strokes(drawn(SEVEN)))
    rows, columns = np.flatnonzero((image > 100).any(1)), np.flatnonzero((image > 100).any(0))
    assert max(len(rows), len(columns)) == pytest.approx(BOX, abs=1)
    y, x = np.mgrid[0.5:SIDE, 0.5:SIDE]
    assert (image * y).sum() / image.sum() == pytest.approx(SIDE / 2, abs=0.3)
    assert (image * x).sum() / image.sum() == pytest.approx(SIDE / 2, abs=0.3)
    assert image.max() == 255


@pytest.mark.parametrize("lines", [SEVEN, FIVE, SIX], ids=["7", "5", "6"])
@pytest.mark.parametrize("width", [0.01, 8 / 280, 20 / 280, 40 / 280])
@pytest.mark.parametrize("size", [0.12, 0.4, 1.0])
def test_neither_size_nor_place_nor_brush_makes_a_difference(lines: Lines, size: float, width: float) -> None:
    other = prepare_strokes(drawn(lines, size=size, at=(0.85 * (1 - size), 0.0), width=width))
    assert difference(other, prepare_strokes(drawn(lines))) < 0.05


def test_a_thick_six_keeps_its_loop() -> None:
    image = pixels_of(prepare_strokes(drawn(SIX, size=0.2, width=40 / 280)))
    low = image[14:24, 6:22]
    middle = low[:, low.shape[1] // 2]
    assert middle.min() < 60 < 200 < middle.max()


def test_a_corner_of_few_points_stays_a_corner() -> None:
    """A quick hand gives a 7 of three points; a curve through their midpoints would cut its corner off."""
    line = curve(np.array([(0, 0), (1, 0), (0.5, 1)], np.float32))
    assert np.hypot(*(line - (1, 0)).T).min() < 0.02


def test_an_arc_of_few_points_becomes_round() -> None:
    angles = np.linspace(0, np.pi, 7)
    line = curve(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    along = np.diff(line, axis=0)
    along = along[np.hypot(*along.T) > 1e-6]
    turn = np.abs(np.diff(np.unwrap(np.arctan2(along[:, 1], along[:, 0]))))
    assert turn.max() < math.radians(10)
    assert np.abs(np.hypot(*line.T) - 0.98).max() < 0.05


def test_what_is_drawn_outside_the_pad_is_not_seen() -> None:
    inside = [[(0.5, 0.0), (0.5, 0.8)]]
    beyond = [[(0.5, -0.3), (0.5, 0.8)], [(1.2, 0.1), (1.4, 0.9)]]
    one = prepare_strokes([Stroke(0.07, np.array(line, np.float32)) for line in inside])
    other = prepare_strokes([Stroke(0.07, np.array(line, np.float32)) for line in beyond])
    assert difference(one, other) < 0.05
    assert prepare_strokes([Stroke(0.07, np.array(beyond[1], np.float32))]).problem == "blank"


def test_nothing_and_a_dot() -> None:
    assert prepare_strokes([]).problem == "blank"
    for points in ([(0.5, 0.5)], [(0.5, 0.5), (0.51, 0.51)], [(0.5, 0.5)] * 3):
        digit = prepare_strokes([Stroke(0.07, np.array(points, np.float32))])
        assert (digit.problem, digit.pixels) == ("dot", None)


def test_a_digit_may_be_made_of_dots_and_scattered_dots_are_none() -> None:
    def dots(places: np.ndarray, width: float) -> list[Stroke]:
        return [Stroke(width, place[None].astype(np.float32)) for place in places]

    down = np.stack([np.full(20, 0.5), np.linspace(0.2, 0.8, 20)], 1)
    assert prepare_strokes(dots(down, 0.07)).problem is None
    corners = np.array([(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)])
    assert prepare_strokes(dots(corners, 0.05)).problem in ("dot", "several")
    generator = np.random.default_rng(0)
    for _ in range(200):
        places = generator.random((int(generator.integers(1, 40)), 2)) * generator.choice([0.05, 0.3, 1])
        width = float(generator.choice([0.02, 0.07, 0.14, 1]))
        prepare_strokes(dots(places, width))  # whatever it says, it says something


def test_a_stray_tap_is_no_part_of_a_digit() -> None:
    tap = Stroke(0.07, np.array([(0.05, 0.95)], np.float32))
    assert difference(prepare_strokes([*drawn(SEVEN), tap]), prepare_strokes(drawn(SEVEN))) < 0.01


@pytest.mark.parametrize("width", [8 / 280, 20 / 280, 40 / 280])
def test_two_digits_are_said_to_be_two(width: float) -> None:
    two = [*drawn(SEVEN, size=0.35, at=(0.05, 0.3), width=width), *drawn(FIVE, size=0.35, at=(0.6, 0.3), width=width)]
    assert prepare_strokes(two).problem == "several"


def test_a_scribble_is_not_a_digit() -> None:
    points = np.random.default_rng(3).uniform(0.1, 0.9, (40, 2)).astype(np.float32)
    assert prepare_strokes([Stroke(0.03, points)]).problem == "scribble"


def circle(x: float, y: float, r: float, start: float = 0, turn: float = 2 * math.pi) -> list[tuple[float, float]]:
    return [(x + r * math.cos(start + turn * t / 40), y + r * math.sin(start + turn * t / 40)) for t in range(41)]


HEART = [
    [
        (
            0.5 + 0.03 * 16 * math.sin(t) ** 3,
            0.5 - 0.03 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)),
        )
        for t in (2 * math.pi * i / 60 for i in range(61))
    ]
]
TRIANGLE = [[(0.5, 0.1), (0.95, 0.85), (0.05, 0.85), (0.5, 0.1)]]
SMILEY = [
    circle(0.5, 0.5, 0.45),
    [(0.35, 0.3), (0.35, 0.42)],
    [(0.65, 0.3), (0.65, 0.42)],
    circle(0.5, 0.5, 0.25, 0.4, 2.4),
]


@pytest.mark.parametrize("width", [8 / 280, 20 / 280])
@pytest.mark.parametrize("lines", [HEART, TRIANGLE, SMILEY], ids=["heart", "triangle", "smiley"])
def test_one_shape_is_not_several_digits(lines: Lines, width: float) -> None:
    assert prepare_strokes(drawn(lines, width=width)).problem != "several"


def test_a_digit_filled_in_with_a_thin_brush_is_thinned() -> None:
    """Back and forth across a thick 1."""
    points = [(0.45 + 0.15 * (i % 2), 0.1 + 0.8 * i / 60) for i in range(61)]
    lines = prepare_strokes([Stroke(0.03, np.array(points, np.float32))])
    assert lines.pixels is not None


def test_the_picture_shows_the_strokes_as_the_pad_does() -> None:
    image = np.asarray(picture([Stroke(0.1, np.array([(0.5, 0.2), (0.5, 0.8)], np.float32))]))
    assert image.shape == (280, 280)
    assert image[140, 140] == 255
    assert image[140, 140 - 18] == image[140, 140 + 18] == 0
    assert np.count_nonzero(image[140]) == pytest.approx(28, abs=1)
