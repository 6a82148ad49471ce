"""A page that stays open: restarts, failing calls, reloads, the browser's history, and addresses of tabs."""

import re
import socket
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from .conftest import CHROMIUM, EXAMPLES, MARKS
from .driving import DIGITS, TABS, Visitor, answer, clear, draw, go, open_page, says, upload

pytestmark = MARKS

LABELS = [str(digit) for digit in range(10)]


def test_an_open_page_answers_again_after_a_restart(
    context: BrowserContext, running: type, tiny: type, tmp_path: Path
) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for folder, names in (("before", ("improved_vgg16", "vanilla_vgg16")), ("after", ("improved_resnet18",))):
        for seed, name in enumerate(names):
            model = tiny(tmp_path / folder / f"{name}.mnist", shape=(28, 28, 1), seed=seed, labels=LABELS)
            model.write(accuracy=f"{99 - seed}")
    with running("--models", tmp_path / "before", "--port", port) as server:
        page = open_page(context, server.url)
        draw(page, DIGITS[1])
        expect(answer(page)).to_contain_text("Improved VGG16")
        page.get_by_label("Model and its test accuracy").first.click()
        page.get_by_role("option").last.click()
        expect(answer(page)).to_contain_text("Vanilla VGG16")
        server.stop()
        draw(page, DIGITS[7])
        failure = answer(page).get_by_role("status").locator("visible=true")
        expect(failure).to_have_text("The server cannot be reached. Trying again …")
        expect(answer(page).locator(".bars")).to_be_hidden()  # the answer to the one was not left beside the seven
    with running("--models", tmp_path / "after", "--port", port) as server:
        # The same page asks again by itself; its model is gone, and the best takes its place.
        expect(answer(page).locator(".bars")).to_be_visible(timeout=20_000)
        expect(answer(page)).to_contain_text("Improved ResNet18")
        clear(page)
        draw(page, DIGITS[4])
        expect(answer(page)).to_contain_text("Improved ResNet18")
        go(page, "Compare")
        expect(page.locator("#comparison tbody th")).to_have_text(["Improved ResNet18"])
        expect(page.locator("#comparison")).not_to_contain_text("This is an example")
        assert "Traceback" not in server.stop()[1]
        page.close()


@pytest.mark.parametrize(
    ("status", "says"),
    [(503, "The server is busy: all hands full. Asking again …"), (500, "There is no answer: all hands full.")],
)
def test_a_call_that_fails_says_so_in_the_answers_place(page: Page, status: int, says: str) -> None:
    draw(page, DIGITS[1])
    expect(answer(page).locator(".bars")).to_be_visible()
    page.route(
        re.compile("gradio_api/run"), lambda route: route.fulfill(status=status, json={"error": "all hands full"})
    )
    draw(page, DIGITS[7])
    expect(answer(page).locator(".failure")).to_contain_text(says)
    expect(answer(page).locator(".bars")).to_be_hidden()
    page.unroute_all()
    clear(page)
    draw(page, DIGITS[7])
    expect(answer(page).locator(".says")).to_have_text(re.compile("^7 "))
    expect(answer(page).locator(".failure")).to_have_count(0)


def test_the_answer_is_that_of_what_is_shown(page: Page, tmp_path: Path) -> None:
    draw(page, DIGITS[4])
    expect(says(page)).to_have_text(re.compile("^4 "))
    page.get_by_role("tab", name="Photo").click()
    expect(answer(page)).to_contain_text("Nothing to read yet")
    upload(page, "digit-photo", EXAMPLES / "digit-3-on-paper.jpg")
    expect(says(page)).to_have_text(re.compile("^3 "))
    page.get_by_role("tab", name="Draw").click()
    expect(says(page)).to_have_text(re.compile("^4 "))
    page.get_by_role("tab", name="Photo").click()
    expect(says(page)).to_have_text(re.compile("^3 "))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    upload(page, "digit-photo", tmp_path / "broken.jpg")
    expect(answer(page)).to_contain_text("This picture is damaged")
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#comparison")).to_contain_text("This picture is damaged")


def test_clear_is_undone_and_a_reload_keeps_the_drawing(page: Page) -> None:
    draw(page, DIGITS[4])
    expect(says(page)).to_have_text(re.compile("^4 "))
    clear(page)
    undo = page.get_by_role("button", name="Undo")
    undo.click()
    expect(says(page)).to_have_text(re.compile("^4 "))
    for _ in DIGITS[4]:
        undo.click()
    expect(answer(page)).to_contain_text("Nothing to read yet")
    expect(undo).to_be_disabled()
    draw(page, DIGITS[7])
    expect(says(page)).to_have_text(re.compile("^7 "))
    page.reload()
    expect(says(page)).to_have_text(re.compile("^7 "))
    clear(page)
    page.reload()
    page.locator("#pad canvas[aria-busy=false]").wait_for()
    expect(answer(page)).to_contain_text("Nothing to read yet")


def test_a_page_that_nobody_uses_comes_to_rest(context: BrowserContext, url: str) -> None:
    context.add_init_script(
        "window.drawn = 0; const frame = requestAnimationFrame;"
        "window.requestAnimationFrame = (draw) => (drawn++, frame(draw));"
    )
    page = open_page(context, url)
    draw(page, DIGITS[7])
    expect(says(page)).to_have_text(re.compile("^7 "))
    assert page.evaluate("drawn") > 0
    rests = """async () => {
        for (let turn = 0; turn < 30; turn++) {
            const before = drawn;
            await new Promise((resolve) => setTimeout(resolve, 500));
            if (drawn - before < 3) return true;
        }
        return false;
    }"""
    assert page.evaluate(rests)  # a loop would draw 30 frames in each turn


def test_back_returns_to_the_last_tab(page: Page) -> None:
    draw(page, DIGITS[7])
    for tab in ("Compare", "Models"):
        go(page, tab)
    assert page.url.endswith("#models")
    for tab in ("Compare", "Digit"):
        page.go_back()
        expect(page.get_by_role("tab", name=tab, exact=True)).to_have_attribute("aria-selected", "true")
    expect(says(page)).to_have_text(re.compile("^7 "))


def test_an_address_leads_to_a_tab_and_a_model(desktop: Visitor, url: str) -> None:
    page = desktop.go_to(url, "/#understand/vanilla_vgg16.cifar10")
    page.locator(TABS["Understand"]).first.wait_for()
    page.goto(f"{url}/#digit/improved_googlenet.mnist")
    page.reload()
    chooser = page.get_by_label("Model and its test accuracy").locator("visible=true")
    expect(chooser).to_have_value(re.compile("^Improved GoogLeNet"))
    chooser.click()
    page.get_by_role("option").first.click()
    expect(page).to_have_url(re.compile(r"#digit/\w+\.mnist$"))
