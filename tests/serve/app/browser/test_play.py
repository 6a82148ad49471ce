"""What makes people stay: all networks vote, the square that one drags over the image, and how all this works."""

import re
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import FloatRect, Page, Response, expect

from .conftest import EXAMPLES, MARKS
from .driving import DIGITS, answer, clear, draw, go

pytestmark = MARKS


def test_all_networks_vote_while_one_draws(page: Page) -> None:
    draw(page, DIGITS[4])
    expect(answer(page).locator(".bars")).to_be_visible()
    assert answer(page).locator(".judges").count() == 0  # they cost six runs, so one has to ask for them
    page.get_by_label("Let all networks vote").check()
    judges = answer(page).locator(".judges li")
    expect(judges.filter(has_text="Improved GoogLeNet").locator("strong")).to_have_text("4")
    expect(answer(page).locator(".fool")).to_be_visible()
    clear(page)
    draw(page, DIGITS[7])
    expect(judges.filter(has_text="Improved GoogLeNet").locator("strong")).to_have_text("7")


def test_the_card_holds_the_drawing_and_the_verdicts(page: Page, tmp_path: Path) -> None:
    draw(page, DIGITS[4])
    page.get_by_label("Let all networks vote").check()
    expect(answer(page).locator(".judges")).to_be_visible()
    # What the page shows once they disagree, which the published networks do not do on such a digit.
    answer(page).evaluate(
        """place => { const button = document.createElement("button"); button.className = "save-card";
            button.textContent = "Save it as a card"; place.querySelector(".judges").after(button); }"""
    )
    with page.expect_download() as download:
        page.get_by_role("button", name="Save it as a card").click()
    download.value.save_as(tmp_path / "card.png")
    assert download.value.suggested_filename == "fooled.png"
    with Image.open(tmp_path / "card.png") as card:
        assert card.size == (1200, 630)
        pixels = np.asarray(card.convert("L"))
    assert pixels[130:510, 60:440].std() > 20  # the drawing
    assert pixels[370:510, 470:610].std() > 20  # what the networks see
    assert pixels[130:560, 650:1100].std() > 5  # what they say


def drag(page: Page, box: FloatRect, x: float, y: float) -> None:
    """Drag the square over the image in `box` to a spot, in shares of the image, and wait for the response to it."""

    def answered(response: Response) -> bool:
        told = re.search(r"([\d.]+),([\d.]+)", response.request.post_data or "")
        return "gradio_api/run" in response.url and told is not None and close(told)

    def close(told: re.Match[str]) -> bool:
        return abs(float(told[1]) - x) < 0.01 > abs(float(told[2]) - y)

    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    with page.expect_response(answered):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()


def test_a_square_over_the_image_moves_the_bars(page: Page) -> None:
    go(page, "Picture")
    page.locator(".gallery-item").locator("visible=true").nth(5).click()
    go(page, "Understand")
    image = page.locator(".cover img")
    page.get_by_role("img", name="Heat map").wait_for()
    box = image.bounding_box()
    assert box
    share = page.locator("#covered .bars li", has_text="frog").locator(".share")
    drag(page, box, 0.5, 0.5)
    before = share.inner_text()
    drag(page, box, 0.02, 0.98)
    expect(share).not_to_have_text(before)
    page.locator(".cover").focus()
    with page.expect_response(re.compile("gradio_api/run")):
        page.keyboard.press("ArrowRight")


def test_how_this_works_has_a_call_that_this_server_accepts(page: Page) -> None:
    page.get_by_text("How this works").click()
    call = page.locator(".about pre").inner_text()
    expect(page.locator(".about .a-model")).to_have_text(re.compile(r"\w+\.(mnist|cifar10)"))
    call = page.locator(".about pre").inner_text().replace("picture.png", str(EXAMPLES / "picture-frog.png"))
    done = subprocess.run(call.split(), capture_output=True, text=True, check=True)
    assert '"predictions"' in done.stdout
    for heading in page.locator(".about a").all():
        assert heading.get_attribute("href")
