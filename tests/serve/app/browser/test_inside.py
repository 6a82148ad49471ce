"""Look inside a network, live, and class activation maps: with real gestures, on a desktop and on a phone."""

import re
import subprocess
import sys

import pytest
from playwright.sync_api import FloatRect, Locator, Page, Request, expect

from .conftest import CARDS, EXAMPLES, MARKS, PUBLISHED, ROOT
from .driving import DIGITS, SCREENS, Visitor, answer, clear, draw, go, hearing, says, upload, violations
from .test_accessible import SMALL

pytestmark = MARKS

ADDRESS = f"/#digit/{PUBLISHED[0]}"
SIZES = {"desktop": (1280, 900), "phone": (390, 800)}


@pytest.fixture(scope="module", autouse=True)
def _studied() -> None:
    """Build the study files, if they are missing."""
    if not all((CARDS / name / "model.study.onnx").exists() for name in PUBLISHED):
        subprocess.run([sys.executable, "train/export.py", "--missing", *PUBLISHED], cwd=ROOT, check=True)


@pytest.fixture(params=SIZES)
def sized(request: pytest.FixtureRequest, desktop: Visitor, phone: Visitor, url: str) -> Page:
    visitor = phone if request.param == "phone" else desktop
    return visitor.open(url, ADDRESS, size=SIZES[request.param])


@pytest.fixture
def page(desktop: Visitor, url: str) -> Page:
    """A page with a model that has a study file."""
    return desktop.open(url, ADDRESS)


def look(page: Page) -> Locator:
    """Open the panel."""
    page.locator(".inside-panel summary").click()
    panel = page.locator(".inside")
    panel.wait_for()
    return panel


def box(one: Locator) -> FloatRect:
    one.scroll_into_view_if_needed()
    found = one.bounding_box()
    assert found is not None
    return found


def sheet(page: Page, stage: int) -> Locator:
    return page.locator(f'.inside figure[data-stage="{stage}"]')


def source(page: Page, part: str) -> str:
    return str(page.locator(f'[data-part="{part}"]').get_attribute("src"))


def test_maps_light_up_while_one_draws(sized: Page) -> None:
    panel = None
    for stroke in DIGITS[4]:
        draw(sized, [stroke])
        expect(answer(sized).locator(".bars")).to_be_visible(timeout=20_000)
        if panel is None:
            panel = look(sized)
            before = [source(sized, f"maps{stage}") for stage in range(3)]
            sized.evaluate("scrollTo(0, 0)")
    for stage in range(3):
        expect(sheet(sized, stage).locator("img")).not_to_have_attribute("src", before[stage])
    labels = [sheet(sized, stage).get_attribute("aria-label") for stage in range(3)]
    assert labels == [
        "First convolution, 32 maps of 32x32: press the arrow keys to choose a map",
        "A middle stage, 480 maps of 8x8: press the arrow keys to choose a map",
        "The last stage, 1024 maps of 2x2: press the arrow keys to choose a map",
    ]
    clear(sized)
    expect(sized.locator("#inside .place")).to_contain_text("Nothing to read yet")


def test_closed_it_asks_for_nothing(page: Page) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/gradio_api/run/" in request.url and '\\"stage\\"' in (request.post_data or ""):
            asked.append(request.url)

    with hearing(page, "request", note):
        draw(page, DIGITS[4])
        expect(says(page)).to_contain_text("4")
        assert asked == []
        look(page)
        assert asked
        page.locator(".inside-panel summary").click()
        count = len(asked)
        clear(page)
        draw(page, DIGITS[1])
        expect(says(page)).to_contain_text("1")
        assert len(asked) == count


def test_of_many_changes_the_last_one_counts_and_few_are_asked_for(page: Page) -> None:
    draw(page, DIGITS[4])
    panel = look(page)
    under_way: list[Request] = []
    at_once: list[int] = []

    def begun(request: Request) -> None:
        if '\\"stage\\"' in (request.post_data or ""):
            under_way.append(request)
            at_once.append(len(under_way))

    def ended(request: Request) -> None:
        if request in under_way:  # and not one that began before the test listened
            under_way.remove(request)

    with hearing(page, "request", begun), hearing(page, "requestfinished", ended):
        image = panel.locator(".move")
        image.focus()
        for _ in range(12):
            page.keyboard.press("ArrowRight")
        expect(panel.locator("figcaption").first).to_have_text("moved by 12, 0 pixels")
    assert set(at_once) == {1}
    assert len(at_once) <= 12


def test_a_map_that_is_pressed_shows_its_filter_and_where_it_looks(sized: Page) -> None:
    draw(sized, DIGITS[4])
    expect(answer(sized).locator(".bars")).to_be_visible()
    panel = look(sized)
    for stage, (column, row), words in (
        (0, (2, 1), "Map 9 of 32, first convolution (conv1.0.conv)"),
        (1, (5, 3), "Map 78 of 480, a middle stage (inception3b)"),
        (2, (1, 2), "Map 66 of 1024, the last stage (inception5b)"),
    ):
        figure = sheet(sized, stage)
        place = figure.locator("> div")
        size = box(place)
        columns, rows = (int(figure.get_attribute(f"data-{name}") or 0) for name in ("columns", "rows"))
        spot = {"x": (column + 0.5) * size["width"] / columns, "y": (row + 0.5) * size["height"] / rows}
        place.click(position=spot)  # type: ignore[arg-type]
        expect(panel.get_by_role("status").filter(has_text="Map")).to_have_text(words)
        expect(panel.get_by_alt_text("Its filter")).to_be_visible()
        expect(panel.locator(".drawn")).to_contain_text(re.compile(r"Its filter is \dx\d, over (the image|\d+ maps)"))
        mark, frame = box(figure.locator("i")), size
        assert abs(mark["x"] - frame["x"] - column * frame["width"] / columns) < 2
        expect(panel.locator('[data-part^="mark"]:not([hidden])')).to_have_count(1)
    expect(panel.locator(".drawn")).to_contain_text("it counts most for")
    panel.get_by_role("button", name="Next map").click()
    expect(panel.get_by_role("status").filter(has_text="Map")).to_contain_text("Map 67 of 1024")
    panel.get_by_role("button", name="Previous map").click()
    expect(panel.get_by_role("status").filter(has_text="Map")).to_contain_text("Map 66 of 1024")


def test_the_keyboard_chooses_maps_and_stays_where_it_is(page: Page) -> None:
    draw(page, DIGITS[4])
    panel = look(page)
    named = panel.get_by_role("status").filter(has_text="Map")
    middle = sheet(page, 1)
    middle.focus()
    for key, number in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowDown", 26), ("ArrowLeft", 25), ("ArrowUp", 1)):
        page.keyboard.press(key)
        expect(named).to_contain_text(f"Map {number} of 480")
        expect(middle).to_be_focused()


def test_the_image_is_dragged_and_the_maps_follow(sized: Page) -> None:
    draw(sized, DIGITS[4])
    panel = look(sized)
    seen = source(sized, "seen")
    size = box(panel.locator(".move > div"))
    pixel = size["width"] / 28
    sized.mouse.move(size["x"] + size["width"] / 2, size["y"] + size["height"] / 2)
    sized.mouse.down()
    sized.mouse.move(size["x"] + size["width"] / 2 + 5 * pixel, size["y"] + size["height"] / 2 - 3 * pixel, steps=8)
    sized.mouse.up()
    expect(panel.locator(".move figcaption")).to_have_text("moved by 5, -3 pixels")
    assert source(sized, "seen") != seen
    expect(panel.locator('[data-part="says"]')).to_contain_text(re.compile(r"\d"))
    sized.keyboard.press("ArrowDown")
    expect(panel.locator(".move figcaption")).to_have_text("moved by 5, -2 pixels")
    panel.get_by_role("button", name="Move it back").click()
    expect(panel.locator(".move figcaption")).to_have_text("drag it to move it")
    expect(panel.locator('[data-part="seen"]')).to_have_attribute("src", seen)


def test_a_picture_is_looked_into_and_other_tabs_have_no_panel(page: Page) -> None:
    draw(page, DIGITS[4])
    look(page)
    go(page, "Picture")
    expect(page.locator("#inside .place")).to_contain_text("Choose a picture")
    upload(page, "picture", EXAMPLES / "picture-frog.png")
    expect(page.locator(".inside")).to_have_attribute("data-key", re.compile(r"\.cifar10 32x32x3$"))
    expect(page.locator('[data-part="says"]')).to_contain_text("frog")
    for tab in ("Compare", "Understand", "Models"):
        go(page, tab)
        expect(page.locator(".inside-panel summary")).to_be_hidden()
    go(page, "Digit")
    expect(page.locator(".inside")).to_have_attribute("data-key", re.compile(r"\.mnist 28x28x1$"))


def test_another_model_shows_its_own_maps(page: Page) -> None:
    draw(page, DIGITS[4])
    panel = look(page)
    key = str(panel.get_attribute("data-key"))
    page.get_by_label("Model and its test accuracy").locator("visible=true").click()
    page.get_by_role("option").filter(has_not_text=re.compile("Improved GoogLeNet")).first.click()
    place = page.locator("#inside .place")
    # Another model may have no study file here, which one line says.
    expect(place.locator(f'[data-key="{key}"]')).to_have_count(0)
    expect(place).to_contain_text(re.compile(r"maps of|study file|model\.study\.onnx"))


def test_class_activation_maps_come_at_once_and_covering_when_asked(page: Page) -> None:
    go(page, "Picture")
    upload(page, "picture", EXAMPLES / "picture-frog.png")
    page.get_by_label("Model and its test accuracy").locator("visible=true").click()
    page.get_by_role("option", name=re.compile("Improved GoogLeNet")).click()
    expect(says(page, "picture")).to_contain_text("frog")
    go(page, "Understand")
    study = page.locator("#study")
    expect(study).to_contain_text("evidence for frog")
    expect(study).to_contain_text("2x2 places")
    map_in_it = study.get_by_role("img", name="Heat map")
    before = map_in_it.get_attribute("src")
    ways = page.get_by_label("Map", exact=True).locator("visible=true")
    ways.click()
    page.get_by_role("option", name="Evidence for truck").click()
    expect(study).to_contain_text("evidence for truck")
    expect(map_in_it).not_to_have_attribute("src", str(before))
    ways.click()
    page.get_by_role("option", name="Effect of covering each spot").click()
    expect(study).to_contain_text("effect of covering it")
    study.get_by_label("From the image to the heat map").fill("40")
    expect(map_in_it).to_have_css("opacity", "0.4")


@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing_in_the_panel_and_fingers_hit_it(
    screen: str, desktop: Visitor, phone: Visitor, url: str
) -> None:
    page = (phone if screen == "phone" else desktop).look_at(url, screen, ADDRESS)
    draw(page, DIGITS[4])
    expect(answer(page).locator(".bars")).to_be_visible()
    look(page)
    # On a busy machine a call may take so long that what it replaces fades.
    page.add_style_tag(content=".waiting > * { opacity: 1 !important; transition: none !important; }")
    assert violations(page) == []
    if screen == "phone":
        assert page.evaluate(SMALL) == []
        assert page.locator(".inside-panel summary").bounding_box()["height"] >= 44
        assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
