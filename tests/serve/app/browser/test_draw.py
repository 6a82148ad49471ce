"""Digits drawn in a real browser, with the results that a visitor reads."""

import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .conftest import MARKS
from .driving import DIGITS, Visitor, answer, clear, draw, hearing, pad, says, set_brush

pytestmark = MARKS


@pytest.mark.parametrize(
    ("brush", "size", "left", "top", "digits"),
    [(20, 160, 60, 60, range(10)), (8, 90, 20, 150, (1, 4, 7, 8)), (32, 210, 35, 35, (2, 3, 5, 9))],
    ids=["usual", "small", "thick"],
)
def test_every_digit_drawn_is_named(
    page: Page, brush: int, size: float, left: float, top: float, digits: Iterable[int]
) -> None:
    set_brush(page, brush)
    for digit in digits:
        draw(page, DIGITS[digit], size, left, top)
        expect(says(page)).to_have_text(re.compile(rf"^{digit} "))
        bars = answer(page).locator(".bars li")
        assert bars.count() == 10
        expect(answer(page).locator(".bars li.first")).to_contain_text(str(digit))
        clear(page)


def test_results_come_while_one_draws(page: Page) -> None:
    box = pad(page)
    page.mouse.move(box["x"] + 150, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 300, steps=10)
    expect(says(page)).to_have_text(re.compile("^1 "))
    page.mouse.up()


def test_the_image_that_the_model_sees_is_shown(page: Page) -> None:
    draw(page, DIGITS[7])
    expect(says(page)).to_be_visible()
    shown = answer(page).get_by_role("img", name="as the model sees it")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert shown.bounding_box()["width"] > 100
    assert shown.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def test_undo_takes_back_a_stroke(page: Page) -> None:
    draw(page, DIGITS[1])
    expect(says(page)).to_have_text(re.compile("^1 "))
    draw(page, [[(20, 100), (95, 2)], [(0, 0), (100, 60)], [(5, 50), (95, 95)]])
    expect(answer(page)).not_to_contain_text(re.compile("^1 "))
    undo = page.get_by_role("button", name="Undo")
    for _ in range(3):
        undo.click()
    expect(says(page)).to_have_text(re.compile("^1 "))
    undo.click()
    expect(answer(page)).to_contain_text("Nothing to read yet")
    expect(undo).to_be_disabled()


def test_a_hundred_steps_can_be_undone_and_no_more_are_held(page: Page) -> None:
    page.get_by_label("Drawing pad").evaluate(
        """pad => {
            for (let i = 0; i < 103; i++) for (const key of [" ", " ", "ArrowRight"])  // a dot, and on to the next
                pad.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
        }"""
    )
    undo = page.get_by_role("button", name="Undo")
    undone = undo.evaluate(
        "button => { let count = 0; for (; !button.disabled; count++) button.click(); return count; }"
    )
    assert undone == 100
    assert page.evaluate("JSON.parse(sessionStorage.drawing).length") == 3


def test_redo_and_a_clear_that_can_be_undone(page: Page) -> None:
    draw(page, DIGITS[1])
    expect(says(page)).to_have_text(re.compile("^1 "))
    undo, redo = (page.get_by_role("button", name=name, exact=True) for name in ("Undo", "Redo"))
    expect(redo).to_be_disabled()
    undo.click()
    expect(answer(page)).to_contain_text("Nothing to read yet")
    redo.click()
    expect(says(page)).to_have_text(re.compile("^1 "))
    clear(page)
    undo.click()
    expect(says(page)).to_have_text(re.compile("^1 "))
    page.get_by_label("Drawing pad").press("Control+z")
    expect(answer(page)).to_contain_text("Nothing to read yet")
    page.get_by_label("Drawing pad").press("Control+y")
    expect(says(page)).to_have_text(re.compile("^1 "))
    redo.click()  # the Clear
    expect(answer(page)).to_contain_text("Nothing to read yet")
    expect(redo).to_be_disabled()


@pytest.mark.parametrize("brush", [8, 20, 40])
@pytest.mark.parametrize("size", [30, pytest.param(45, marks=pytest.mark.slow)])
def test_a_small_digit_is_read_whatever_the_brush(page: Page, brush: int, size: float) -> None:
    set_brush(page, brush)
    for digit in (6, 8):
        draw(page, DIGITS[digit], size, 150, 190)
        expect(says(page)).to_have_text(re.compile(rf"^{digit} "))
        clear(page)


def test_a_quick_corner_stays_a_corner(page: Page) -> None:
    """The browser reports few points of a quick stroke."""
    box = pad(page)
    scale = box["width"] / 280
    page.mouse.move(box["x"] + 60 * scale, box["y"] + 60 * scale)
    page.mouse.down()
    for x, y in ((220, 60), (120, 240)):
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale)
    page.mouse.up()
    expect(says(page)).to_have_text(re.compile("^7 "))
    corner = page.locator("#pad canvas").evaluate(
        """canvas => {
            const at = canvas.width / 280;
            return canvas.getContext("2d").getImageData(218 * at, 62 * at, 1, 1).data[0];
        }"""
    )
    assert corner < 60  # ink, up to the corner itself


@pytest.mark.parametrize("start", [(-8, 60), (-40, 66)], ids=["just outside", "farther"])
def test_a_stroke_that_begins_outside_the_pad_draws_from_where_it_enters(page: Page, start: tuple[int, int]) -> None:
    box = pad(page)
    scale = box["width"] / 280
    page.mouse.move(box["x"] + start[0] * scale, box["y"] + start[1] * scale)
    page.mouse.down()
    for x, y in ((200, 60), (120, 240)):
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=10)
    page.mouse.up()
    expect(says(page)).to_have_text(re.compile("^7 "))
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(answer(page)).to_contain_text("Nothing to read yet")


def test_dragging_the_brush_across_the_pad_draws_nothing(page: Page) -> None:
    handle = page.get_by_label("Width of the brush").bounding_box()
    box = pad(page)
    assert handle is not None
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 100, steps=10)
    page.mouse.up()
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_disabled()


@pytest.mark.parametrize("kind", ["finger", "pen"])
def test_finger_and_pen(phone: Visitor, url: str, kind: str) -> None:
    page = phone.open(url, size=(390, 844))
    box = pad(page)
    devtools = page.context.new_cdp_session(page)
    for stroke in DIGITS[4]:
        points = [(box["x"] + 60 + 1.6 * x, box["y"] + 60 + 1.6 * y) for x, y in stroke]
        steps = np.concatenate([np.linspace(a, b, 8) for a, b in pairwise(points)]).tolist()
        for i, (x, y) in enumerate(steps):
            last = i == len(steps) - 1
            if kind == "finger":
                devtools.send(
                    "Input.dispatchTouchEvent",
                    {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]},
                )
                if last:
                    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            else:
                event = {"x": x, "y": y, "button": "left", "buttons": 1, "pointerType": "pen", "clickCount": 1}
                devtools.send("Input.dispatchMouseEvent", {"type": "mouseMoved" if i else "mousePressed", **event})
                if last:
                    devtools.send("Input.dispatchMouseEvent", {"type": "mouseReleased", **event, "buttons": 0})
    expect(says(page)).to_have_text(re.compile("^4 "))
    devtools.detach()
    assert page.evaluate("scrollY") == 0  # the finger drew, and did not scroll


def test_drawing_with_the_keyboard(page: Page) -> None:
    canvas = page.get_by_label("Drawing pad")
    canvas.focus()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    expect(says(page)).to_have_text(re.compile("^1 "))
    page.keyboard.press("Delete")
    expect(answer(page)).to_contain_text("Nothing to read yet")


@pytest.mark.parametrize("key", ["Control+z", "Delete"])
def test_undo_ends_the_stroke_that_is_being_drawn(phone: Visitor, url: str, key: str) -> None:
    """Then a second finger can draw although the first still moves on the pad."""
    page = phone.open(url, size=(390, 844))
    box = pad(page)
    devtools = page.context.new_cdp_session(page)

    def touch(kind: str, *spots: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(spots)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (60, 150))
    for x in range(60, 250, 10):
        touch("touchMove", (x, 150))
    page.keyboard.press(key)
    expect(page.get_by_role("button", name="Clear", exact=True)).to_be_disabled()
    touch("touchMove", (60, 250))
    touch("touchStart", (60, 250), (150, 60))
    for y in range(60, 250, 10):
        touch("touchMove", (60, 310 - y), (150, y))
    touch("touchEnd")
    devtools.detach()
    expect(says(page)).to_have_text(re.compile("^1 "))


def test_the_space_key_draws_nothing_while_the_mouse_does(page: Page) -> None:
    errors: list[object] = []
    with hearing(page, "pageerror", lambda error: errors.append(error)):  # noqa: PLW0108  Playwright takes no built-in method
        box = pad(page)
        page.mouse.move(box["x"] + 150, box["y"] + 60)
        page.mouse.down()
        page.keyboard.press(" ")
        page.mouse.move(box["x"] + 150, box["y"] + 300, steps=10)
        page.mouse.up()
        page.keyboard.press("ArrowLeft")
        expect(says(page)).to_have_text(re.compile("^1 "))
        page.get_by_role("button", name="Undo").click()
        expect(answer(page)).to_contain_text("Nothing to read yet")
    assert errors == []


def test_a_dot_two_digits_and_a_scribble_are_not_digits(page: Page) -> None:
    draw(page, [[(50, 50), (50.5, 50.5)]])
    expect(answer(page)).to_contain_text("only a dot")
    clear(page)
    draw(page, DIGITS[3], 80, 30, 90)
    draw(page, DIGITS[7], 80, 160, 90)
    expect(answer(page).locator(".unsure")).to_have_text("More than one digit")
    clear(page)
    set_brush(page, 12)
    rng = np.random.default_rng(0)
    draw(page, [[(float(x), float(y)) for x, y in rng.uniform(0, 100, (30, 2))]], 220, 30, 30)
    expect(answer(page).locator(".unsure")).to_be_visible()


def test_the_dark_theme_draws_light_on_dark(desktop: Visitor, url: str) -> None:
    page = desktop.open(url, scheme="dark")
    draw(page, DIGITS[5])
    expect(says(page)).to_have_text(re.compile("^5 "))
    corner, ink = page.locator("#pad canvas").evaluate(
        """canvas => {
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return [pixels[0], pixels.filter((_, i) => i % 4 === 0).reduce((a, b) => Math.max(a, b))];
        }"""
    )
    assert corner < 60
    assert ink > 200


def test_another_model_classifies_the_same_drawing(page: Page) -> None:
    draw(page, DIGITS[2])
    expect(says(page)).to_have_text(re.compile("^2 "))
    chooser = page.get_by_label("Model and its test accuracy").first
    chooser.click()
    options = page.get_by_role("option")
    names = options.all_inner_texts()
    assert any("GoogLeNet" in name for name in names)
    options.last.click()
    expect(says(page)).to_have_text(re.compile("^2 "))
    expect(answer(page)).to_contain_text(names[-1].strip().split(" · ")[0].lstrip("✓ "))
