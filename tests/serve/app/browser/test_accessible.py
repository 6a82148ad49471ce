"""All tabs for everybody: axe finds nothing, the keyboard reaches everything, and fingers hit what they aim at."""

import pytest
from playwright.sync_api import Page, expect

from .conftest import MARKS
from .driving import DIGITS, SCREENS, TABS, Visitor, answer, draw, go, violations

pytestmark = MARKS

# What one can press, with its height, if that is less than 44 pixels. A control counts with its label.
SMALL = """() => [...document.querySelectorAll("button, a[href], select, input:not([type=file], [type=radio])")]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.closest("#card") && !e.disabled)
    .map(e => [(e.closest("label, .secondary-wrap") ?? e).getBoundingClientRect(), e.outerHTML.slice(0, 90)])
    .filter(([box]) => box.width > 0 && Math.round(box.height) < 44)
    .map(([box, html]) => [box.height, html])"""


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest, desktop: Visitor, phone: Visitor, url: str) -> Page:
    return (phone if request.param == "phone" else desktop).look_at(url, request.param)


def test_axe_finds_nothing_on_any_tab(screen: Page) -> None:
    draw(screen, DIGITS[4])
    expect(answer(screen).locator(".bars")).to_be_visible()
    for tab in ("Digit", "Photo", *list(TABS)[1:]):
        if tab == "Photo":
            screen.get_by_role("tab", name=tab).click()
        else:
            go(screen, tab)
        if tab == "Understand":
            screen.get_by_role("img", name="Heat map").wait_for()
        expect(screen.locator(".waiting")).to_have_count(0)
        screen.evaluate("Promise.allSettled(document.getAnimations().map(one => one.finished))")
        assert violations(screen) == [], tab


def test_fingers_hit_what_they_aim_at_on_a_phone(phone: Visitor, url: str) -> None:
    page = phone.look_at(url, "phone")
    draw(page, DIGITS[4])
    expect(answer(page).locator(".bars")).to_be_visible()
    for tab in TABS:
        go(page, tab)
        small = page.evaluate(SMALL)
        assert small == [], tab


def test_on_a_phone_the_answer_and_the_whole_pad_are_in_view(phone: Visitor, url: str) -> None:
    page = phone.look_at(url, "phone")
    draw(page, DIGITS[4])
    expect(answer(page).locator(".bars")).to_be_visible()
    parts = (answer(page).locator(".says"), answer(page).locator(".bars"), page.locator("#pad canvas"))
    clear = page.get_by_role("button", name="Clear", exact=True)
    for part in (*parts, clear):
        box = part.bounding_box()
        assert box
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 664
    pad = parts[2].bounding_box()
    assert pad
    assert pad["width"] > 270
    page.mouse.wheel(0, 200)  # the answer stays where it is, over what is scrolled
    expect(answer(page).locator(".says")).to_be_in_viewport()
    title = page.get_by_role("heading", level=1).bounding_box()
    assert title
    assert title["height"] < 40


def test_the_pad_does_not_move_under_the_first_stroke(phone: Visitor, url: str) -> None:
    page = phone.look_at(url, "phone")
    before = page.locator("#pad canvas").bounding_box()
    draw(page, DIGITS[4])
    expect(answer(page).locator(".bars")).to_be_visible()
    assert page.locator("#pad canvas").bounding_box() == before


def test_arrow_keys_move_between_tabs(page: Page) -> None:
    page.get_by_role("tab", name="Digit").focus()
    for key, tab in (("ArrowRight", "Picture"), ("End", "Models"), ("ArrowRight", "Digit"), ("ArrowLeft", "Models")):
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=tab, exact=True)).to_be_focused()
        expect(page.get_by_role("tab", name=tab, exact=True)).to_have_attribute("aria-selected", "true")


def test_bars_are_seen_in_forced_colours(desktop: Visitor, url: str) -> None:
    page = desktop.open(url, forced_colors="active")
    draw(page, DIGITS[1])
    bar = answer(page).locator(".bars li.first .track")
    expect(bar).to_have_css("border-top-style", "solid")
    text = page.evaluate("getComputedStyle(document.body).color")
    expect(bar.locator("i")).to_have_css("background-color", text)
