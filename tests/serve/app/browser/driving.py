"""Use the app as a visitor does, with the mouse, and read its results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, FloatRect, Locator, Page, expect

# The tabs, and an element that is there once a tab has been filled.
TABS = {
    "Digit": "#pad canvas",
    "Picture": "#picture-answer .answer",
    "Compare": "#comparison tbody tr",
    "Understand": "#study .heat img",
    "Models": "#card h2",
}
OWN = {"Image": "#image-answer .answer"}  # the tab of models of one's own
# Width, height and colours of the screens that everything is looked at on.
SCREENS: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "light": (1280, 800, "light"),
    "dark": (1280, 800, "dark"),
    "phone": (390, 664, "light"),
}
Stroke = Sequence[tuple[float, float]]


class Visitor:
    """A tab that tests use one after another: the app's files are in its cache, and nothing else of earlier visits."""

    def __init__(self, browser: Browser, *, phone: bool) -> None:
        self.context = browser.new_context(has_touch=phone, is_mobile=phone)
        self._page: Page | None = None

    def go_to(
        self,
        url: str,
        address: str = "/",
        *,
        size: tuple[int, int] = (1200, 900),
        scheme: Literal["light", "dark"] = "light",
        forced_colors: Literal["active", "none"] = "none",
    ) -> Page:
        """Load the page afresh, in a window of `size`, without a drawing and with no permission of an earlier visit."""
        if self._page is None or self._page.is_closed():
            self._page = self.context.new_page()
        page = self._page
        self.context.clear_permissions()
        page.mouse.up()
        page.mouse.move(0, 0)
        # The last page is left before its storage is emptied: it stores the drawing a little later than it changes.
        page.goto(f"{url}/v2/health/live")
        page.evaluate("[sessionStorage, localStorage].forEach(one => one.clear())")
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme, forced_colors=forced_colors)
        page.goto(url + address)
        return page

    def open(self, url: str, address: str = "/", **options: Any) -> Page:
        """Load the page afresh, and wait until one can draw."""
        return ready(self.go_to(url, address, **options))

    def look_at(self, url: str, screen: str, address: str = "/") -> Page:
        """Load the page afresh on one of SCREENS; the phone's is for a visitor with a phone."""
        width, height, scheme = SCREENS[screen]
        return self.open(url, address, size=(width, height), scheme=scheme)


def ellipse(x: float, y: float, a: float, b: float, start: float = -90, turn: float = 360) -> list[tuple[float, float]]:
    """Points of an arc around (x, y), angles in degrees clockwise from the right."""
    angles = np.deg2rad(start + np.linspace(0, turn, 13))
    return [(x + a * float(np.cos(t)), y + b * float(np.sin(t))) for t in angles]


# As most people write them, in a box of 100 by 100.
DIGITS: dict[int, list[Stroke]] = {
    0: [ellipse(50, 50, 32, 48)],
    1: [[(38, 18), (54, 2), (54, 98)]],
    2: [[*ellipse(50, 28, 30, 27, 190, 190), (55, 65), (22, 98), (80, 98)]],
    3: [[*ellipse(46, 26, 28, 25, 200, 240), *ellipse(46, 73, 32, 26, -75, 235)]],
    4: [[(60, 2), (18, 66), (86, 66)], [(64, 36), (64, 98)]],
    5: [[(76, 3), (28, 3), (24, 44), *ellipse(46, 68, 30, 30, -115, 255)]],
    6: [[(66, 2), (42, 22), (27, 52), *ellipse(50, 72, 25, 25, 180, -360)]],
    7: [[(20, 4), (80, 4), (58, 45), (44, 98)]],
    8: [[*ellipse(50, 26, 23, 23, 90, 360), *ellipse(50, 74, 28, 25, -90, 360)]],
    9: [[*ellipse(48, 28, 25, 26, 0, -360), (72, 60), (66, 98)]],
}


def open_page(context: BrowserContext, url: str) -> Page:
    """Load the page for the first time, in a tab of its own."""
    page = context.new_page()
    page.goto(url)
    return ready(page)


def ready(page: Page) -> Page:
    """Wait until one can draw on a page that has no drawing."""
    page.locator("#pad canvas[aria-busy=false]").wait_for()  # the canvas appears before one can draw on it
    expect(answer(page)).to_contain_text("draw one digit", ignore_case=True)
    return page


@contextmanager
def hearing(page: Page, event: Any, listener: Callable[[Any], None]) -> Iterator[None]:
    """Call `listener` for each event of the page within the block."""
    page.on(event, listener)
    try:
        yield
    finally:
        page.remove_listener(event, listener)


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds: each rule with the beginnings of the elements that break it."""
    # Of what is as it should be axe describes one element a rule, and not each.
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]


def answer(page: Page, kind: str = "digit") -> Locator:
    return page.locator(f"#{kind}-answer")


def says(page: Page, kind: str = "digit") -> Locator:
    """The class that the result names."""
    return answer(page, kind).locator(".says")


def pad(page: Page) -> FloatRect:
    """The place of the canvas on the page, once it no longer moves and nothing covers it."""
    canvas = page.locator("#pad canvas")
    canvas.click(trial=True)
    box = canvas.bounding_box()
    assert box is not None
    return box


def draw(page: Page, strokes: Sequence[Stroke], size: float = 160, left: float = 60, top: float = 60) -> None:
    """Draw strokes in a box of 100 with the mouse; the box has `size` of the canvas's 280 pixels.

    The mouse is quick: the browser reports the given points alone.
    """
    box = pad(page)
    scale = box["width"] / 280
    for stroke in strokes:
        spots = [(left + x * size / 100, top + y * size / 100) for x, y in stroke]
        points = [(box["x"] + x * scale, box["y"] + y * scale) for x, y in spots]
        page.mouse.move(*points[0])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(x, y)
        page.mouse.up()


def set_brush(page: Page, width: int) -> None:
    page.get_by_label("Width of the brush").fill(str(width))


def clear(page: Page) -> None:
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(answer(page)).to_contain_text("Nothing to read yet")


def go(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.locator((TABS | OWN)[tab]).first.wait_for()


def upload(page: Page, box: str, file: Path) -> None:
    page.locator(f"#{box} input[type=file]").first.set_input_files(file)
