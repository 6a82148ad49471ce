"""Pictures that are uploaded, pasted or taken in a real browser, and the examples."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from .conftest import CHROMIUM, EXAMPLES, FLAGS, MARKS
from .driving import answer, go, open_page, says, upload

pytestmark = MARKS


def test_a_photo_of_a_digit(page: Page) -> None:
    page.get_by_role("tab", name="Photo").click()
    upload(page, "digit-photo", EXAMPLES / "digit-3-on-paper.jpg")
    expect(says(page)).to_have_text(re.compile("^3 "))


def test_examples_are_one_click(page: Page) -> None:
    page.get_by_role("tab", name="Photo").click()
    page.locator(".gallery-item").locator("visible=true").first.click()
    expect(says(page)).to_have_text(re.compile(r"^\d "))
    go(page, "Picture")
    page.locator(".gallery-item").locator("visible=true").nth(5).click()
    expect(says(page, "picture")).to_contain_text("frog")


def test_a_picture_is_classified_and_its_crop_shown(page: Page, tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "picture-truck.png") as truck:
        wide = Image.new("RGB", (400, 256), "white")
        wide.paste(truck.resize((256, 256), Image.Resampling.BICUBIC), (72, 0))
    wide.save(tmp_path / "wide.jpg")
    go(page, "Picture")
    upload(page, "picture", tmp_path / "wide.jpg")
    expect(says(page, "picture")).to_contain_text("truck")
    shown = answer(page, "picture").get_by_role("img")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    expect(answer(page, "picture")).to_contain_text("airplane, automobile, bird, cat, deer, dog, frog, horse")


def test_a_file_that_is_not_a_picture_gets_a_message(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    go(page, "Picture")
    upload(page, "picture", tmp_path / "broken.png")
    expect(answer(page, "picture")).to_contain_text(re.compile("is not a picture|is damaged"))


def test_pictures_are_pasted_one_after_another(page: Page) -> None:
    go(page, "Picture")
    for name in ("frog", "ship"):
        data = base64.b64encode((EXAMPLES / f"picture-{name}.png").read_bytes()).decode()
        page.evaluate(
            """async data => {
                const clipboardData = new DataTransfer();
                const picture = await (await fetch(`data:image/png;base64,${data}`)).blob();
                clipboardData.items.add(new File([picture], "image.png", {type: "image/png"}));
                const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
                document.activeElement.dispatchEvent(event);
            }""",
            data,
        )
        expect(says(page, "picture")).to_contain_text(name)


def test_the_clipboard_button_pastes(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    go(page, "Picture")
    page.evaluate(
        """async data => {
            const picture = await (await fetch(`data:image/png;base64,${data}`)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""",
        base64.b64encode((EXAMPLES / "picture-frog.png").read_bytes()).decode(),
    )
    page.locator("#picture").get_by_role("button", name="Paste from clipboard").click()
    expect(says(page, "picture")).to_contain_text("frog")


@pytest.fixture
def page_with_camera(browser: Browser, url: str) -> Iterator[Page]:
    with (
        browser.browser_type.launch(executable_path=CHROMIUM, args=FLAGS) as chromium,
        chromium.new_context(viewport={"width": 1200, "height": 900}, permissions=["camera"]) as context,
    ):
        yield open_page(context, url)


def test_a_photo_is_taken_with_the_camera(page_with_camera: Page) -> None:
    page = page_with_camera
    go(page, "Picture")
    box = page.locator("#picture")
    box.get_by_role("button", name="Capture from camera").click()
    box.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    box.get_by_role("button", name="capture photo").click()
    # The browser's fake camera shows a green test image, in none of the ten classes.
    shown = answer(page, "picture").get_by_role("img")
    expect(shown).to_be_visible()
    red, green, blue = shown.evaluate(
        """async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(32, 32).getContext("2d");
            canvas.drawImage(image, 0, 0);
            return [...canvas.getImageData(16, 4, 1, 1).data].slice(0, 3);
        }"""
    )
    assert green > max(red, blue) + 50
    expect(answer(page, "picture").locator(".bars li")).to_have_count(5)


@pytest.mark.parametrize(
    ("button", "says"),
    [
        ("Capture from camera", "The browser does not let this page use the camera."),
        ("Paste from clipboard", "The browser does not let this page read the clipboard."),
    ],
)
def test_what_the_browser_refuses_is_said(context: BrowserContext, url: str, button: str, says: str) -> None:
    context.add_init_script(
        """{ const refused = () => Promise.reject(new DOMException("no", "NotAllowedError"));
            Clipboard.prototype.read = MediaDevices.prototype.getUserMedia = refused; }"""
    )
    page = open_page(context, url)
    go(page, "Picture")
    box = page.locator("#picture")
    box.get_by_role("button", name=button).click()
    if "camera" in button:
        box.get_by_role("button", name="Click to Access Webcam").click()
    expect(page.get_by_role("alert").filter(has_text=says)).to_be_visible()


def test_a_photo_of_an_iphone_is_read(page: Page, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    with Image.open(EXAMPLES / "picture-ship.png") as ship:
        heif.from_pillow(ship.resize((256, 256), Image.Resampling.BICUBIC)).save(tmp_path / "IMG_0001.HEIC")
    go(page, "Picture")
    upload(page, "picture", tmp_path / "IMG_0001.HEIC")
    expect(says(page, "picture")).to_contain_text("ship")
