"""The square that crops a photo, with mouse, finger and keyboard, and the outline of the sheet that was read."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import FloatRect, Locator, Page, expect

from .conftest import EXAMPLES, MARKS
from .driving import Visitor, answer, go, says, upload, violations
from .test_accessible import SMALL

pytestmark = MARKS


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A photo of a 1 and a 7 on one sheet of paper, which lies on a table; the phone was held sideways."""
    image = Image.new("L", (600, 400), 70)
    pen = ImageDraw.Draw(image)
    pen.polygon([(40, 50), (560, 40), (565, 360), (45, 355)], fill=215)
    pen.line([(180, 120), (180, 280)], 40, 12)
    pen.line([(360, 120), (460, 120), (400, 280)], 40, 12, "curve")
    noisy = np.asarray(image) + np.random.default_rng(0).normal(0, 3, (400, 600))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "two.jpg", exif=exif)
    return tmp_path / "two.jpg"


def box_of(place: Locator) -> FloatRect:
    box = place.bounding_box()
    assert box
    return box


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def press_sixty_times(square: Locator, key: str) -> None:
    """Press a key for long enough to move the square to the edge."""
    square.evaluate(
        """(square, key) => {
            for (let i = 0; i < 60; i++)
                square.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
        }""",
        key,
    )


def swipe(page: Page, start: tuple[float, float], by: tuple[float, float]) -> None:
    """Put a finger on the screen, move it and lift it."""
    touch = page.context.new_cdp_session(page)
    for kind, shares in (("Start", [0.0]), ("Move", [0.2]), ("Move", [1.0]), ("End", [])):
        at = [{"x": start[0] + share * by[0], "y": start[1] + share * by[1]} for share in shares]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})
    touch.detach()


def test_a_photo_of_two_digits_is_cropped_to_one(page: Page, two: Path) -> None:
    page.get_by_role("tab", name="Photo").click()
    expect(page.get_by_role("button", name="Crop")).to_have_count(0)
    upload(page, "digit-photo", two)
    expect(answer(page)).to_contain_text("crop the photo to one")
    # The outline of the sheet lies over the photo, where the browser shows it upright.
    outline, photo = box_of(page.locator("#digit-crop polygon")), box_of(page.locator("#digit-photo .image-frame img"))
    scale = min(photo["width"] / 600, photo["height"] / 400)
    left = photo["x"] + (photo["width"] - 600 * scale) / 2
    assert outline["x"] == pytest.approx(left + 42 * scale, abs=6)
    assert outline["width"] == pytest.approx(520 * scale, abs=12)

    page.get_by_role("button", name="Crop").click()
    square, frame = page.get_by_label("Crop square"), box_of(page.locator("#digit-crop .crop-frame"))
    expect(square).to_be_focused()
    box = box_of(square)
    assert box["width"] == pytest.approx(box["height"], abs=1)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, middle, (middle[0] + 300, middle[1]))  # no further than the photo
    moved = box_of(square)
    assert moved["x"] + moved["width"] == pytest.approx(frame["x"] + frame["width"], abs=1)
    expect(says(page)).to_have_text(re.compile("^7 "))
    # A corner resizes it; the opposite one stays.
    drag(page, (moved["x"] + 1, moved["y"] + 1), (moved["x"] - 19, moved["y"] - 19))
    larger = box_of(square)
    assert larger["width"] == pytest.approx(moved["width"] + 20, abs=2)
    assert larger["x"] + larger["width"] == pytest.approx(moved["x"] + moved["width"], abs=1)

    press_sixty_times(square, "ArrowLeft")
    assert box_of(square)["x"] == pytest.approx(frame["x"], abs=1)
    expect(says(page)).to_have_text(re.compile("^1 "))
    before = box_of(square)["width"]
    for key, change in (("-", -1), ("Shift+ArrowLeft", -1), ("+", 1), ("Shift+ArrowDown", 1)):
        page.keyboard.press(key)
        now = box_of(square)["width"]
        assert (now - before) * change > 1, key
        before = now
    assert violations(page) == []
    # Where the square is above the photo's own buttons, one takes hold of the square.
    for key in ("ArrowRight", "ArrowUp"):
        press_sixty_times(square, key)
    square.locator("i").nth(1).click(trial=True)
    expect(says(page)).to_have_text(re.compile("^7 "))
    # The other tabs read the same part.
    go(page, "Compare")
    expect(page.locator("#comparison [role=status]")).not_to_contain_text("more than one")
    page.get_by_role("tab", name="Digit").click()
    page.get_by_role("button", name="Reset the crop").click()
    expect(answer(page)).to_contain_text("crop the photo to one")
    expect(square).to_be_hidden()
    # Another photo is not cropped, although this one was.
    page.get_by_role("button", name="Crop").click()
    expect(answer(page)).not_to_contain_text("crop the photo to one")
    upload(page, "digit-photo", EXAMPLES / "digit-3-on-paper.jpg")
    expect(says(page)).to_have_text(re.compile("^3 "))
    expect(square).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_finger_crops_on_a_phone(phone: Visitor, url: str, two: Path, scheme: str) -> None:
    page = phone.open(url, size=(390, 664), scheme=scheme)
    page.get_by_role("tab", name="Photo").click()
    upload(page, "digit-photo", two)
    expect(answer(page)).to_contain_text("crop the photo to one")
    page.get_by_role("button", name="Crop").tap()
    square = page.get_by_label("Crop square")
    # All of the photo is in view, and not behind the answer.
    square.click(trial=True)
    assert (
        box_of(answer(page))["y"] + box_of(answer(page))["height"]
        <= box_of(page.locator("#digit-crop .crop-frame"))["y"]
    )
    box = box_of(square)
    swipe(page, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), (200, -30))
    expect(says(page)).to_have_text(re.compile("^7 "))
    scrolled = page.evaluate("scrollY")
    moved = box_of(square)
    assert moved["x"] > box["x"] + 50
    # A corner resizes it, and no finger scrolls the page.
    lower_left = box_of(square.locator("i").nth(2))
    swipe(page, (lower_left["x"] + 22, lower_left["y"] + 22), (30, -30))
    assert box_of(square)["width"] == pytest.approx(moved["width"] - 30, abs=4)
    assert page.evaluate("scrollY") == scrolled
    for corner in square.locator("i").all():
        assert min(box_of(corner)["width"], box_of(corner)["height"]) >= 44
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations(page) == []
