"""Photos of a sheet on a table: the sheet is found, straightened and read."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serve.images.apart import find_apart
from serve.images.digits import Digit
from serve.images.photos import prepare
from serve.images.ruling import erase_ruling
from serve.images.sheet import find_sheet, rectify

SEVEN = [(0.2, 0.15), (0.8, 0.15), (0.45, 0.85)]
WIDTH, HEIGHT = 480, 360
Corners = list[tuple[float, float]]
WHOLE: Corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
TILTED: Corners = [(0.16, 0.12), (0.86, 0.18), (0.83, 0.9), (0.12, 0.84)]


def scene(
    corners: Corners,
    *,
    table: float | np.ndarray = 60.0,
    paper: float = 210.0,
    ink: float = 50.0,
    pen: float = 0.02,
    ruling: str = "",
    line: float = 160.0,
    strokes: list[list[tuple[float, float]]] | None = None,
) -> Image.Image:
    """A sheet whose corners are at `corners`, shares of the frame, with a 7 in its middle, and a little noise."""
    large = 2
    size = (large * WIDTH, large * HEIGHT)
    points = [(x * size[0], y * size[1]) for x, y in corners]
    page = np.zeros((size[1], size[0]), np.float32) + table
    drawn = Image.fromarray(page)
    pen_ = ImageDraw.Draw(drawn)
    pen_.polygon(points, fill=paper)

    def at(u: float, v: float) -> tuple[float, float]:
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
        return (
            (1 - u) * (1 - v) * x0 + u * (1 - v) * x1 + u * v * x2 + (1 - u) * v * x3,
            (1 - u) * (1 - v) * y0 + u * (1 - v) * y1 + u * v * y2 + (1 - u) * v * y3,
        )

    for i in range(1, 14) if ruling else []:
        pen_.line([at(0, i / 14), at(1, i / 14)], fill=line, width=3)
        if ruling == "squared":
            pen_.line([at(i / 14, 0), at(i / 14, 1)], fill=line, width=3)
    for stroke in [SEVEN] if strokes is None else strokes:
        spots = [at(0.35 + 0.3 * x, 0.25 + 0.5 * y) for x, y in stroke]
        pen_.line(spots, fill=ink, width=round(pen * size[1]), joint="curve")
    seen = np.asarray(drawn)
    noisy = seen + np.random.default_rng(0).normal(0, 3, seen.shape)
    grey = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return grey.convert("RGB")


def wood() -> np.ndarray:
    """A dark table with grain and the gaps between its planks."""
    rng = np.random.default_rng(1)
    grain = Image.fromarray(rng.normal(0, 12, (2 * HEIGHT // 6, 12)).astype(np.float32))
    board = 110 + np.asarray(grain.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC))
    board[::150] = board[1::150] = 40
    return board


def pixels(digit: Digit) -> np.ndarray:
    assert digit.problem is None
    assert digit.pixels is not None
    return digit.pixels[..., 0].astype(float)


def difference(one: Digit, two: Digit) -> float:
    a, b = pixels(one), pixels(two)
    return float(np.abs(a - b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def reference() -> Digit:
    return prepare(scene(WHOLE))


def strip(side: int, share: float) -> Corners:
    """A sheet that ends `share` before one side of the frame (left, top, right, bottom) and goes beyond the others."""
    low, high = [-0.1, -0.1], [1.1, 1.1]
    if side < 2:
        low[side] = share
    else:
        high[side - 2] = 1 - share
    return [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]


TABLES: dict[str, float | Callable[[], np.ndarray]] = {"dark": 60.0, "light": 250.0, "black": 5.0, "wood": wood}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "corners", [TILTED, [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]], ids=["tilt", "25 %"]
)
def test_all_four_edges_are_found(corners: Corners, table: str) -> None:
    made = TABLES[table]
    sheet = find_sheet(scene(corners, table=made() if callable(made) else made))
    assert sheet is not None
    assert sheet.edges == 4
    assert np.abs(np.array(sheet.corners) - corners).max() < 0.035


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("share", [0.03, 0.12, 0.25])
def test_a_strip_of_table_is_left_out(side: int, share: float) -> None:
    image = scene(strip(side, share))
    sheet = find_sheet(image)
    assert sheet is not None
    assert [end is not None for end in sheet.ends] == [i == side for i in range(4)]
    assert sheet.ends[side] == pytest.approx((share, share), abs=0.03)
    left, top, right, bottom = (share + 0.01 if i == side else 0 for i in range(4))
    alone = image.crop(
        (round(left * WIDTH), round(top * HEIGHT), round((1 - right) * WIDTH), round((1 - bottom) * HEIGHT))
    )
    assert difference(prepare(image), prepare(alone)) < 0.15


@pytest.mark.parametrize("table", TABLES)
def test_the_digit_on_a_tilted_sheet_is_straightened(table: str, reference: Digit) -> None:
    made = TABLES[table]
    digit = prepare(scene(TILTED, table=made() if callable(made) else made))
    assert digit.sheet is not None
    assert difference(digit, reference) < 0.15


@pytest.mark.parametrize("ruling", ["", "lined", "squared"])
def test_a_sheet_that_fills_the_frame_has_no_edge(ruling: str) -> None:
    assert find_sheet(scene(WHOLE, ruling=ruling)) is None


@pytest.mark.parametrize("corners", [WHOLE, TILTED], ids=["whole", "tilted"])
@pytest.mark.parametrize("ruling", ["lined", "squared"])
def test_the_ruling_is_no_ink_even_if_it_is_as_dark_as_a_pencil(
    ruling: str, corners: Corners, reference: Digit
) -> None:
    digit = prepare(scene(corners, ruling=ruling, line=150, ink=120, pen=0.012))
    assert difference(digit, reference) < 0.25


def test_a_soft_shadow_is_not_the_sheets_edge() -> None:
    image = np.asarray(scene(WHOLE), float)
    x = np.arange(WIDTH)[:, None]
    shadowed = image * (0.55 + 0.45 / (1 + np.exp(-(x - 0.2 * WIDTH) / 8)))
    assert find_sheet(Image.fromarray(shadowed.astype(np.uint8))) is None


def test_an_edge_that_cuts_the_ink_is_none(reference: Digit) -> None:
    """A sharp shadow looks like an edge; but the digit goes on beyond it."""
    image = np.asarray(scene(WHOLE), float)
    image[:, : int(0.45 * WIDTH)] *= 0.55
    digit = prepare(Image.fromarray(image.astype(np.uint8)))
    assert digit.sheet is None
    assert difference(digit, reference) < 0.2


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("ruling", ["", "lined"])
def test_an_empty_sheet_is_blank(ruling: str, table: str) -> None:
    made = TABLES[table]
    digit = prepare(scene(TILTED, table=made() if callable(made) else made, ruling=ruling, strokes=[]))
    assert digit.problem == "blank"


def test_two_digits_on_a_sheet_are_said_to_be_two() -> None:
    two = [[(0.7 * x + shift, y) for x, y in SEVEN] for shift in (-0.4, 0.7)]
    assert prepare(scene(TILTED, strokes=two)).problem == "several"


def beside(*scenes: Image.Image) -> Image.Image:
    """Scenes next to each other, on one table."""
    both = Image.new("RGB", (WIDTH * len(scenes), HEIGHT))
    for i, one in enumerate(scenes):
        both.paste(one, (i * WIDTH, 0))
    return both


@pytest.mark.parametrize("table", [60.0, 250.0])
@pytest.mark.parametrize("down", [False, True], ids=["beside", "below"])
def test_digits_on_two_sheets_are_said_to_be_two(table: float, down: bool) -> None:
    two = beside(scene(TILTED, table=table), scene(TILTED, table=table, ink=80))
    digit = prepare(two.transpose(Image.Transpose.ROTATE_90) if down else two)
    assert digit.problem == "several"
    assert digit.pixels is not None
    assert digit.sheet is None


@pytest.mark.parametrize("at", [0, 1], ids=["left", "right"])
def test_of_two_sheets_the_one_with_a_digit_is_read(at: int, reference: Digit) -> None:
    sheets = [scene(TILTED), scene(TILTED)]
    sheets[1 - at] = scene(TILTED, strokes=[])
    digit = prepare(beside(*sheets))
    assert difference(digit, reference) < 0.2
    assert digit.sheet is not None
    expected = [((x + at) / 2, y) for x, y in TILTED]
    assert np.abs(np.array(digit.sheet.corners) - expected).max() < 0.035


@pytest.mark.parametrize("ruling", ["", "lined", "squared"])
@pytest.mark.parametrize("corners", [WHOLE, TILTED, strip(0, 0.2), strip(3, 0.2)], ids=["whole", "tilt", "left", "low"])
def test_one_sheet_is_not_taken_for_two(corners: Corners, ruling: str) -> None:
    assert find_apart(scene(corners, ruling=ruling)) == []
    assert find_apart(scene(corners, table=wood(), ruling=ruling)) == []


def test_chalk_on_a_blackboard_in_a_frame() -> None:
    dark = prepare(scene(TILTED, table=150, paper=40, ink=220))
    assert difference(dark, prepare(scene(TILTED))) < 0.15


def test_a_plain_table_without_noise() -> None:
    """All four borders have one tone, as a canvas has."""
    image = Image.new("L", (WIDTH, HEIGHT), 90)
    pen = ImageDraw.Draw(image)
    pen.rectangle([100, 60, 400, 310], fill=230)
    pen.line([(200, 120), (300, 120), (240, 260)], fill=30, width=10, joint="curve")
    digit = prepare(image)
    assert digit.sheet is not None
    assert pixels(digit).sum() / 255 < 120


def test_strokes_on_a_canvas_are_no_sheet() -> None:
    image = Image.new("L", (280, 280))
    ImageDraw.Draw(image).rectangle([60, 50, 220, 230], outline=255, width=30)
    assert prepare(image).sheet is None


def test_rectify_straightens_and_goes_on_beyond_the_border() -> None:
    corners: Corners = [(0.2, -0.1), (1.1, -0.1), (1.1, 1.1), (0.3, 1.1)]
    sheet = find_sheet(scene(corners))
    assert sheet is not None
    assert [end is not None for end in sheet.ends] == [True, False, False, False]
    straight = np.asarray(rectify(scene(corners), sheet.corners, 400).convert("L"), float)
    assert max(straight.shape) <= 400
    assert np.mean(straight[:, :3] > 150) > 0.95


def test_ruling_leaves_strokes_that_cross_it_in_one_piece() -> None:
    contrast = np.zeros((200, 300), np.float32)
    contrast[10::20] = contrast[11::20] = 0.3
    contrast[:, 15::25] = contrast[:, 16::25] = 0.3
    contrast[30:170, 148:152] = 0.35  # a stroke hardly stronger than the lines
    cleaned = erase_ruling(contrast, 0.05)
    assert (cleaned[35:165, 149:151] > 0.2).all()
    cleaned[25:175, 143:157] = 0
    assert np.mean(cleaned > 0.1) < 0.01


def test_photos_are_read_as_jpeg_from_the_examples_are() -> None:
    """What the camera's file format does to an edge."""
    file = io.BytesIO()
    scene(TILTED).save(file, "JPEG", quality=60)
    sheet = find_sheet(Image.open(file))
    assert sheet is not None
    assert sheet.edges == 4


@pytest.mark.parametrize("turned", [False, True])
def test_a_long_straight_stroke_is_no_ruling(turned: bool) -> None:
    contrast = np.zeros((200, 300), np.float32)
    contrast[10:190, 100:103] = 0.3
    if turned:
        contrast = np.ascontiguousarray(contrast.T)
    assert np.array_equal(erase_ruling(contrast, 0.05), contrast)
    lined = contrast.copy()
    (lined.T if turned else lined)[15::20] = 0.15
    lined = np.maximum(lined, contrast)
    cleaned = erase_ruling(lined, 0.05)
    assert np.mean(cleaned[contrast > 0] > 0.2) > 0.95
    assert np.mean(cleaned[contrast == 0] > 0.05) < 0.02
